"""What a logit processor is, and how several of them make one."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree


class Processor(NamedTuple):
  """A change of the distribution that each token of a row is drawn from, which may remember something of the row.

  All functions are pure and run inside the jitted loop of the engine, for all slots at once.

  Attributes:
    init: Returns what is remembered of `S` rows without tokens. Each leaf has the axis `S` in front.
    process: Returns new logits from what is remembered, the logits `[S, V]` and the number of tokens `[S]` that each row has.
    observe: Returns what is remembered after the tokens `[S]`, which were drawn.
  """

  init: Callable[[int], PyTree]
  process: Callable[[PyTree, Float[Array, 'S V'], Int[Array, 'S']], Float[Array, 'S V']]
  observe: Callable[[PyTree, Int[Array, 'S']], PyTree]


def while_thinking(
  thinking_end: tuple[int, ...], change: Callable[[Float[Array, 'S V'], Int[Array, 'S']], Float[Array, 'S V']]
) -> Processor:
  """Makes a processor that changes the logits of a row until the row has ended its thinking.

  Args:
    thinking_end: The ids of the tokens of which each ends the thinking.
    change: The new logits, from the logits and the number of tokens that each row has.
  """
  ends = np.array(thinking_end, np.int32)  # of the host, so that no device is touched before it is traced

  def process(thinking: Bool[Array, 'S'], logits: Float[Array, 'S V'], lengths: Int[Array, 'S']) -> Float[Array, 'S V']:
    return jnp.where(thinking[:, None], change(logits, lengths), logits)

  def observe(thinking: Bool[Array, 'S'], tokens: Int[Array, 'S']) -> Bool[Array, 'S']:
    return thinking & ~jnp.isin(tokens, ends)

  return Processor(lambda rows: jnp.ones(rows, bool), process, observe)


def one_after_another(processors: tuple[Processor, ...]) -> Processor:
  """Makes one processor of several. Each gets the logits of the one before it, and all see the drawn tokens."""

  def process(states: PyTree, logits: Float[Array, 'S V'], lengths: Int[Array, 'S']) -> Float[Array, 'S V']:
    for processor, state in zip(processors, states, strict=True):
      logits = processor.process(state, logits, lengths)
    return logits

  def observe(states: PyTree, tokens: Int[Array, 'S']) -> PyTree:
    return tuple(processor.observe(state, tokens) for processor, state in zip(processors, states, strict=True))

  return Processor(lambda rows: tuple(processor.init(rows) for processor in processors), process, observe)

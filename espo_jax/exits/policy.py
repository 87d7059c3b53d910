"""The protocol of an exit policy: how deep a token is read. Pure functions; the decoder asks them block by block."""

from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from espo_jax.types import takes_numpy

KVFill = Literal['recompute', 'copy', 'monotone']


class Observation(NamedTuple):
  """What a policy sees of the tokens in front of block `l`, one of those at which they may exit.

  Attributes:
    logit: The output of the block's exit head.
    passed: The probability, by the heads' stick breaking, of an exit at this block or an earlier one.
    state: The residual stream that enters the block.
    before: The stream that entered the block before it.
    readout: `state -> logits`, the final norm and the LM head.
    position: The place in the response of the token that is read: the first is 0.
  """

  logit: Float[Array, 'B S']
  passed: Float[Array, 'B S']
  state: Float[Array, 'B S D']
  before: Float[Array, 'B S D']
  readout: Callable[[Float[Array, 'B S D']], Float[Array, 'B S V']]
  position: Int[Array, 'B S']


Hazard = Callable[[Observation, Float[Array, '']], Float[Array, 'B S']]
Schedule = Callable[[Int[Array, '...'], int, Float[Array, '']], Int[Array, '...']]
Choice = Callable[[Float[Array, '...'], Float[Array, '']], tuple[Float[Array, '...'], Float[Array, '...']]]


@takes_numpy
def certain(logit: Float[Array, '...'], level: Float[Array, '']) -> tuple[Float[Array, '...'], Float[Array, '...']]:
  """The log-probabilities of what a policy that draws nothing does: 0."""
  del level
  return jnp.zeros_like(logit), jnp.zeros_like(logit)


class ExitPolicy(NamedTuple):
  """An exit policy. It either decides in front of each block that has a head, or follows a schedule known beforehand.

  The one convention: *exit at `l`* skips block `l` and all after it.

  Attributes:
    level: The policy's one number, unless the config sets another. It is traced: another one compiles nothing.
    hazard: `(observation, level) -> probability` of exiting here, given that the token got here. None with a schedule.
    schedule: `(position, blocks of the model, level) -> blocks` that a token at that position of the response runs through.
    choice: `(logit, level) -> log-probabilities` of exiting and of staying, for the learner. They are 0 where nothing is drawn.
    kv_fill: What later tokens find of a token in the blocks it skipped. 'recompute': keys and values of each block from the
      frozen state; 'copy': those of the last block it ran; 'monotone': nothing, for no later token runs a block that an earlier
      one skipped.
    bottom: The number of blocks that run first under a schedule; the others that run are the last ones. With -1 all that run
      are the first ones.
  """

  level: float
  hazard: Hazard | None = None
  schedule: Schedule | None = None
  choice: Choice = certain
  kv_fill: KVFill = 'recompute'
  bottom: int = -1

  def runs(self, block: Int[Array, ''] | int, blocks: Int[Array, '...'], count: int) -> Array:
    """Whether a token that runs through `blocks` of `count` blocks runs through block number `block`."""
    if self.bottom < 0:
      return block < blocks
    return (block < self.bottom) | (block >= count - (blocks - self.bottom))


@takes_numpy
def exit_pmf(hazards: Float[Array, '... E']) -> Float[Array, '... E+1']:
  """The probabilities of exiting at each of `E` blocks, and of not exiting, by stick breaking.

  `P(l) = q_l prod_{m < l} (1 - q_m)`, and what is left is no exit (arXiv 2603.21376).
  """
  left = jnp.cumprod(1 - hazards, axis=-1)
  before = jnp.concatenate([jnp.ones_like(left[..., :1]), left[..., :-1]], axis=-1)
  return jnp.concatenate([hazards * before, left[..., -1:]], axis=-1)


def log_choice(logit: Float[Array, '...']) -> tuple[Float[Array, '...'], Float[Array, '...']]:
  """`log q` and `log (1 - q)` of `q = sigmoid(logit)`."""
  return jax.nn.log_sigmoid(logit), jax.nn.log_sigmoid(-logit)

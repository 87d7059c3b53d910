"""The candidate tokens of an exit, and what gates of the kind 'candidates' read of them.

The likeliest tokens of the first exit are the candidates at all exits of a token. Behind the first exit the LM head is computed
for the candidates alone.
"""

from collections.abc import Callable

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from espo_jax.exits.specee import candidate_features
from espo_jax.model.config import ModelConfig


class Candidates(flax.struct.PyTreeNode):
  """The candidates of each token."""

  tokens: Int[Array, 'B S K']  # -1 before the first exit
  local: Float[Array, 'B S K']  # the candidates' softmax at the last exit; 0 before the first one


def no_candidates(shape: tuple[int, ...], config: ModelConfig) -> Candidates | None:
  """Returns the candidates before the first exit; None where no gate reads candidates."""
  if config.exits.kind != 'candidates':
    return None
  whole = (*shape, config.exits.candidates)
  return Candidates(jnp.full(whole, -1, jnp.int32), jnp.zeros(whole, jnp.float32))


def likeliest(logits: Float[Array, '... V'], config: ModelConfig) -> Int[Array, '... K']:
  """Returns the candidates that an exit with these logits proposes."""
  return jax.lax.top_k(logits, config.exits.candidates)[1]


def logits_among(
  config: ModelConfig, params: PyTree[Array], hidden: Float[Array, '... D'], tokens: Int[Array, '... K']
) -> Float[Array, '... K']:
  """Computes the logits of some tokens by the rows of the LM head that belong to them, in float32.

  Args:
    config: The decoder's shape.
    params: The decoder's parameters.
    hidden: The states behind the final norm.
    tokens: The tokens.
  """
  if config.tie_word_embeddings:
    rows = params['embedding'][tokens]
  else:
    rows = jnp.moveaxis(jnp.take(params['lm_head']['kernel'], tokens, axis=1), 0, -1)
  return jnp.einsum('...d,...kd->...k', hidden, rows.astype(config.activation_dtype), preferred_element_type=jnp.float32)


def candidates_at(
  found: Candidates,
  head: Int[Array, ''] | int,
  proposed: Callable[[], Int[Array, 'B S K']],
  among: Callable[[Int[Array, 'B S K']], Float[Array, 'B S K']],
) -> tuple[Float[Array, 'B S F'], Candidates]:
  """Returns what the gate of an exit reads, and the candidates behind this exit.

  Args:
    found: The candidates before this exit.
    head: The number of the exit.
    proposed: A function that returns what the exit would propose, which is asked at the first exit alone.
    among: A function from tokens to their logits at this exit.
  """
  if isinstance(head, int):
    tokens = proposed() if head == 0 else found.tokens
  else:
    tokens = jax.lax.cond(head == 0, proposed, lambda: found.tokens)
  seen, local = candidate_features(among(tokens), found.local)
  return seen, Candidates(tokens, local)

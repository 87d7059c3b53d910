"""MuE's exit policy: representations saturate, so a token leaves once two successive blocks give it nearly the same stream."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from espo_jax.exits.confidence import stream_cosine
from espo_jax.exits.policy import ExitPolicy, Observation
from espo_jax.exits.registered import register
from espo_jax.registry import source
from espo_jax.types import takes_numpy


@register('mue_similarity')
@source('MuE, arXiv 2211.11152')
def mue_similarity(*, level: float = 0.95) -> ExitPolicy:
  """Exits where the cosine of a token's streams before and after the last block is above `level`.

  The policy reads neither heads nor logits, so that it needs no training. MuE is for an encoder and a decoder over images and
  text, and lets each modality decide on its average. Here each token decides for itself (ours), because a response is decoded
  token by token.

  Args:
    level: The cosine above which a token exits [U].
  """

  @takes_numpy
  def hazard(obs: Observation, level: Float[Array, '']) -> Float[Array, 'B S']:
    return (stream_cosine(obs.state, obs.before) > level).astype(jnp.float32)

  return ExitPolicy(level, hazard=hazard)

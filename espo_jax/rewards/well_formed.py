"""The format reward, which is mostly used as a gate: `hmpo & format`."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from espo_jax.registry import source
from espo_jax.rewards.registered import register


@register('format')
@source('DeepSeek-R1, arXiv 2501.12948')
def well_formed(formatted: Bool[Array, 'P G']) -> Float[Array, 'P G']:
  """Gives 1 for a response that ended with an end token and matches `reward.format`, and 0 otherwise."""
  return formatted.astype(jnp.float32)

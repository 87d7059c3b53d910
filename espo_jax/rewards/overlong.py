"""DAPO's soft overlong punishment."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from espo_jax.registry import PositiveFloat, source
from espo_jax.rewards.registered import register


@register('overlong')
@source('DAPO, arXiv 2503.14476, eq. 13', 'buffer')
def overlong(lengths: Int[Array, 'P G'], horizon: int, *, buffer: PositiveFloat = 0.2) -> Float[Array, 'P G']:
  """Computes `min(0, -(n - (L_max - L_buf)) / L_buf)`: 0 up to the buffer, then linear to -1 at the horizon.

  It is a term to add to a reward.

  Args:
    lengths: `n`, the number of tokens of each response.
    horizon: `L_max`, the most tokens of a response.
    buffer: `L_buf` as a share of the horizon; published as 4096 of 20480 tokens.
  """
  over = lengths.astype(jnp.float32) - (1.0 - buffer) * horizon
  return -jnp.maximum(over, 0.0) / (buffer * horizon)

"""The outcome reward: right or wrong."""

from jaxtyping import Array, Float

from espo_jax.types import Reward


def correct(
  verdicts: Float[Array, 'N'], *, low: float | Float[Array, ''] = 0.0, high: float | Float[Array, ''] = 1.0
) -> Reward:
  """`high` for a right answer, `low` for a wrong one. ESPO does not publish its scale [U]; 0/1 and -1/+1 are both common."""
  return Reward(low + (high - low) * verdicts)

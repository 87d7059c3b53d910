"""The outcome reward: whether the answer is correct."""

from jaxtyping import Array, Float

from espo_jax.registry import source
from espo_jax.rewards.registered import register


@register('correct')
@source('the verifier alone')
def correct(correct: Float[Array, 'P G'], *, low: float = 0.0, high: float = 1.0) -> Float[Array, 'P G']:
  """Gives `high` for a correct answer and `low` for a wrong one.

  ESPO does not publish its scale [U]; both 0/1 and -1/+1 are common.

  Args:
    correct: Verdicts, 0 or 1.
    low: The reward of a wrong answer [U].
    high: The reward of a correct answer [U].
  """
  return low + (high - low) * correct

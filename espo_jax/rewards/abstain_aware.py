"""A reward under which no answer is better than a wrong one."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from espo_jax.registry import source
from espo_jax.rewards.registered import register


@register('abstain_aware')
@source('after the abstention study arXiv 2407.16221, which has metrics; the reward is ours')
def abstain_aware(correct: Float[Array, 'P G'], ended: Bool[Array, 'P G'], *, kappa: float = 1.0) -> Float[Array, 'P G']:
  """Gives 1 for a correct answer, 0 for none and `-kappa` for a wrong one.

  Answering pays if the probability of a correct answer is above `kappa / (1 + kappa)`.

  A row that the horizon cut has no answer. A stopped row has none either, but its reward is `stop.fail_reward`, which should
  then be 0.

  Args:
    correct: Verdicts, 0 or 1.
    ended: Whether the response ended with an end token.
    kappa: The cost of a wrong answer [U].
  """
  return jnp.where(ended, correct - kappa * (1.0 - correct), 0.0)

"""L-GRPO, ConciseR's second stage: length counts only where the whole group is correct."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from espo_jax.registry import source
from espo_jax.rewards.registered import register


@register('l_grpo')
@source('ConciseR, arXiv 2505.21178; form and constant not verified')
def l_grpo(
  correct: Float[Array, 'P G'], lengths: Int[Array, 'P G'], horizon: int, *, beta: float = 0.001
) -> Float[Array, 'P G']:
  """Adds `beta (1 - n / horizon)` to the verdicts on prompts whose answers are all correct.

  In such a group only the length varies, so `beta` cancels out under `group_zscore`, but not under `mean_only`.

  Args:
    correct: Verdicts, 0 or 1.
    lengths: `n`, the number of tokens of each response.
    horizon: The most tokens of a response.
    beta: The weight of the unused share of the horizon [U].
  """
  all_right = (correct > 0).all(axis=1, keepdims=True)
  return correct + jnp.where(all_right, beta * (1.0 - lengths.astype(jnp.float32) / horizon), 0.0)

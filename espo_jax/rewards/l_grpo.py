"""L-GRPO, ConciseR's second stage: length counts only where the whole group is right."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from espo_jax.registry import source
from espo_jax.rewards.registered import register


@register('l_grpo')
@source('ConciseR, arXiv 2505.21178; form and constant not verified')
def l_grpo(
  correct: Float[Array, 'P G'], lengths: Int[Array, 'P G'], horizon: int, *, beta: float = 0.001
) -> Float[Array, 'P G']:
  """The verdict, and `beta (1 - n / horizon)` on top for prompts whose answers are all right.

  In such a group only length varies: under `group_zscore` beta cancels out, under `mean_only` it matters.

  Args:
    correct: Verdicts, 0 or 1.
    lengths: `n`, response tokens.
    horizon: The most there can be.
    beta: What the unused part of the budget is worth [U].
  """
  all_right = (correct > 0).all(axis=1, keepdims=True)
  return correct + jnp.where(all_right, beta * (1.0 - lengths.astype(jnp.float32) / horizon), 0.0)

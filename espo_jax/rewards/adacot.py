"""AdaCoT: reasoning costs where the prompt does not need it, and its absence costs where the prompt needs it."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from espo_jax.registry import source
from espo_jax.rewards.registered import register


@register('adacot')
@source('AdaCoT, arXiv 2505.11896; coefficients from memory')
def adacot(
  correct: Float[Array, 'P G'],
  reasoned: Bool[Array, 'P G'],
  needed: Bool[Array, 'P'],
  formatted: Bool[Array, 'P G'],
  *,
  miss_cost: float = 0.1,
  over_cost: float = 0.1,
  format_cost: float = 1.0,
) -> Float[Array, 'P G']:
  """Computes `R = correct - miss_cost [needed, not reasoned] - over_cost [reasoned, not needed] - format_cost [ill-formed]`.

  Args:
    correct: Verdicts, 0 or 1.
    reasoned: Whether the response reasons.
    needed: Whether the prompt needs reasoning. The paper has labels for this; here `prompts_in_need` estimates it.
    formatted: Whether the response is well-formed.
    miss_cost: `alpha1`, the cost of missing reasoning [U].
    over_cost: `alpha2`, the cost of needless reasoning [U].
    format_cost: `gamma`, the cost of an ill-formed response [U].
  """
  miss, over = needed[:, None] & ~reasoned, ~needed[:, None] & reasoned
  costs = miss_cost * miss.astype(jnp.float32) + over_cost * over.astype(jnp.float32)
  return correct - costs - format_cost * (~formatted).astype(jnp.float32)


def prompts_in_need(correct: Float[Array, 'P G'], reasoned: Bool[Array, 'P G']) -> Bool[Array, 'P']:
  """Marks prompts whose responses without reasoning are correct at most half of the time, or do not exist (ours) [U]."""
  without = (~reasoned).astype(jnp.float32)
  return (correct * without).sum(axis=1) <= 0.5 * without.sum(axis=1)

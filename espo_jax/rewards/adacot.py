"""AdaCoT: reasoning has a price where it is not needed, and so has leaving it out where it is."""

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
  """`R = correct - miss_cost [needed, not reasoned] - over_cost [reasoned, not needed] - format_cost [ill-formed]`.

  Args:
    correct: Verdicts, 0 or 1.
    reasoned: Whether the response reasons.
    needed: Whether the prompt asks for it; the paper has labels for this, here see `prompts_in_need`.
    formatted: Whether the response is well-formed.
    miss_cost: `alpha1`, of leaving reasoning out [U].
    over_cost: `alpha2`, of reasoning for nothing [U].
    format_cost: `gamma` [U].
  """
  miss, over = needed[:, None] & ~reasoned, ~needed[:, None] & reasoned
  costs = miss_cost * miss.astype(jnp.float32) + over_cost * over.astype(jnp.float32)
  return correct - costs - format_cost * (~formatted).astype(jnp.float32)


def prompts_in_need(correct: Float[Array, 'P G'], reasoned: Bool[Array, 'P G']) -> Bool[Array, 'P']:
  """Prompts whose responses without reasoning are wrong as often as right, or that have none. Ours, in place of labels [U]."""
  without = (~reasoned).astype(jnp.float32)
  return (correct * without).sum(axis=1) <= 0.5 * without.sum(axis=1)

"""GMPO: the geometric mean of a sequence's token ratios, each clipped on the side that its advantage pushes towards."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from espo_jax.objectives.registered import register
from espo_jax.objectives.terms import Terms, log_ratio, policy_metrics, row_mean, rows_mean
from espo_jax.registry import source
from espo_jax.types import Metrics


@register('gmpo', advantage='group_zscore')
@source('GMPO, arXiv 2507.20673', 'clip_low', 'clip_high')
def gmpo(
  logprobs: Float[Array, 'N T'],
  old_logprobs: Float[Array, 'N T'],
  advantages: Float[Array, 'N T'],
  mask: Bool[Array, 'N T'],
  *,
  clip_low: float = 0.4,
  clip_high: float = 0.4,
) -> tuple[Terms, Metrics]:
  """A surrogate of the geometric mean of a row's ratios, each clipped on the side that the advantage pushes towards.

      loss = mean_i -A_i exp(mean_t c_it),    c_it = min(log r_it, high) if A_i > 0, else max(log r_it, -low)

  Args:
    logprobs: Log-probabilities of the tokens under the current policy.
    old_logprobs: Log-probabilities of the tokens before the update.
    advantages: How much better than expected each token was.
    mask: True on the tokens that count.
    clip_low: How far a token's log-ratio counts below 0.
    clip_high: How far a token's log-ratio counts above 0.
  """
  change = log_ratio(logprobs, old_logprobs, mask)
  clipped = jnp.where(advantages > 0, jnp.minimum(change, clip_high), jnp.maximum(change, -clip_low))
  loss = -row_mean(advantages, mask) * jnp.exp(row_mean(clipped, mask))
  return {'policy': (1.0, rows_mean(loss, mask))}, policy_metrics(change, clipped != change, mask)

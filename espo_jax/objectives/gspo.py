"""GSPO: one importance ratio per sequence, the geometric mean of its tokens' ratios."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from espo_jax.objectives.registered import register
from espo_jax.objectives.terms import Terms, clipped_surrogate, log_ratio, policy_metrics, row_mean, rows_mean
from espo_jax.registry import source
from espo_jax.types import Metrics


@register('gspo', advantage='group_zscore')
@source('GSPO, arXiv 2507.18071', 'clip_low', 'clip_high')
def gspo(
  logprobs: Float[Array, 'N T'],
  old_logprobs: Float[Array, 'N T'],
  advantages: Float[Array, 'N T'],
  mask: Bool[Array, 'N T'],
  *,
  clip_low: float = 3e-4,
  clip_high: float = 4e-4,
) -> tuple[Terms, Metrics]:
  """The clipped surrogate with one ratio per row.

      loss = mean_i -min(s_i A_i, clip(s_i, 1 - low, 1 + high) A_i),    s_i = exp(mean_t log r_it)

  Args:
    logprobs: Log-probabilities of the tokens under the current policy.
    old_logprobs: Log-probabilities of the tokens before the update.
    advantages: How much better than expected each token was.
    mask: True on the tokens that count.
    clip_low: How far below 1 the row's ratio counts.
    clip_high: How far above 1 the row's ratio counts.
  """
  change = log_ratio(logprobs, old_logprobs, mask)
  ratio, advantages = jnp.exp(row_mean(change, mask)), row_mean(advantages, mask)
  loss, binds = clipped_surrogate(ratio, advantages, clip_low=clip_low, clip_high=clip_high)
  return {'policy': (1.0, rows_mean(loss, mask))}, policy_metrics(change, binds[:, None] & mask, mask)

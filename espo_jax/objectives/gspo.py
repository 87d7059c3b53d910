"""GSPO: one importance ratio a sequence, the geometric mean of its tokens' ratios."""

import jax.numpy as jnp

from espo_jax.objectives.inputs import LossInputs
from espo_jax.objectives.terms import Terms, clipped_surrogate, log_ratio, policy_metrics, row_mean, rows_mean
from espo_jax.registry import source
from espo_jax.types import Metrics


@source('GSPO, arXiv 2507.18071', 'clip_low', 'clip_high')
def gspo(x: LossInputs, *, clip_low: float = 3e-4, clip_high: float = 4e-4) -> tuple[Terms, Metrics]:
  """The clipped surrogate of one ratio per row.

      loss = mean_i -min(s_i A_i, clip(s_i, 1 - low, 1 + high) A_i),    s_i = exp(mean_t log r_it)

  Args:
    x: The tokens.
    clip_low: How far below 1 the row's ratio counts.
    clip_high: How far above 1 the row's ratio counts.
  """
  change = log_ratio(x.logprobs, x.old_logprobs, x.mask)
  ratio, advantages = jnp.exp(row_mean(change, x.mask)), row_mean(x.advantages, x.mask)
  loss, binds = clipped_surrogate(ratio, advantages, clip_low=clip_low, clip_high=clip_high)
  return {'policy': (1.0, rows_mean(loss, x.mask))}, policy_metrics(change, binds[:, None] & x.mask, x.mask)

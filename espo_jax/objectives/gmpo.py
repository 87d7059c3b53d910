"""GMPO: the geometric mean of a sequence's token ratios, each clipped on the side where it would run away."""

import jax.numpy as jnp

from espo_jax.objectives.inputs import LossInputs
from espo_jax.objectives.terms import Terms, log_ratio, policy_metrics, row_mean, rows_mean
from espo_jax.registry import source
from espo_jax.types import Metrics


@source('GMPO, arXiv 2507.20673', 'clip_low', 'clip_high')
def gmpo(x: LossInputs, *, clip_low: float = 0.4, clip_high: float = 0.4) -> tuple[Terms, Metrics]:
  """The geometric mean of a row's ratios, in which each ratio is clipped on the side where it would run away.

      loss = mean_i -A_i exp(mean_t c_it),    c_it = min(log r_it, high) if A_i > 0, else max(log r_it, -low)

  Args:
    x: The tokens.
    clip_low: How far a token's log-ratio counts below 0.
    clip_high: How far a token's log-ratio counts above 0.
  """
  change = log_ratio(x.logprobs, x.old_logprobs, x.mask)
  clipped = jnp.where(x.advantages > 0, jnp.minimum(change, clip_high), jnp.maximum(change, -clip_low))
  loss = -row_mean(x.advantages, x.mask) * jnp.exp(row_mean(clipped, x.mask))
  return {'policy': (1.0, rows_mean(loss, x.mask))}, policy_metrics(change, clipped != change, x.mask)

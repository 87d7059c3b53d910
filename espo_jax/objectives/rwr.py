"""Reward-weighted regression: supervised learning on the policy's own responses, weighted by their rewards."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from espo_jax.objectives.registered import register
from espo_jax.objectives.terms import Terms, log_ratio, policy_metrics, row_mean, rows_mean
from espo_jax.registry import PositiveFloat, source
from espo_jax.types import Metrics


@register('rwr', advantage='score')
@source('RISE, arXiv 2407.18219, its release; Peters and Schaal 2007', 'tau')
def rwr(
  logprobs: Float[Array, 'N T'],
  old_logprobs: Float[Array, 'N T'],
  advantages: Float[Array, 'N T'],
  mask: Bool[Array, 'N T'],
  *,
  tau: PositiveFloat = 0.4,
) -> tuple[Terms, Metrics]:
  """The negative log-likelihood of the policy's own rows, each weighted by an exponential of its reward.

      loss = mean_i -exp(R_i / tau) mean_t log pi(a_it | s_it)

  `R` is the row's advantage. Under the advantage `score` it is the plain reward; another advantage makes the weights relative.

  Args:
    logprobs: Log-probabilities of the tokens under the current policy.
    old_logprobs: Log-probabilities of the tokens before the update.
    advantages: How much better than expected each token was.
    mask: True on the tokens that count.
    tau: The temperature of the weights; a lower one gives better rewards more weight.
  """
  weight = jax.lax.stop_gradient(jnp.exp(row_mean(advantages, mask) / tau))
  change = log_ratio(logprobs, old_logprobs, mask)
  likelihood = rows_mean(-weight * row_mean(logprobs, mask), mask)
  return {'policy': (1.0, likelihood)}, policy_metrics(change, jnp.zeros_like(mask), mask)

"""REINFORCE with a leave-one-out baseline, in which the whole response is one action."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from espo_jax.objectives.registered import register
from espo_jax.objectives.terms import Terms, clipped_surrogate, log_ratio, policy_metrics, row_mean, row_sum, rows_mean
from espo_jax.registry import source
from espo_jax.types import Metrics


@register('rloo', advantage='loo')
@source('RLOO, arXiv 2402.14740')
def rloo(
  logprobs: Float[Array, 'N T'],
  old_logprobs: Float[Array, 'N T'],
  advantages: Float[Array, 'N T'],
  mask: Bool[Array, 'N T'],
  *,
  clip_low: float = 0.2,
  clip_high: float = 0.2,
) -> tuple[Terms, Metrics]:
  """The clipped surrogate of the whole response's ratio, with the advantage `loo`.

      loss = mean_i -min(q_i A_i, clip(q_i, 1 - low, 1 + high) A_i),    q_i = prod_t r_it

  At the first update after a rollout the ratio is 1. The gradient is then the paper's, `-A` times that of `log pi(response)`.

  Args:
    logprobs: Log-probabilities of the tokens under the current policy.
    old_logprobs: Log-probabilities of the tokens before the update.
    advantages: How much better than expected each token was.
    mask: True on the tokens that count.
    clip_low: How far below 1 the response's ratio counts; the paper makes one update per rollout and needs no clip [U].
    clip_high: How far above 1 the response's ratio counts [U].
  """
  change = log_ratio(logprobs, old_logprobs, mask)
  ratio, advantages = jnp.exp(row_sum(change, mask)), row_mean(advantages, mask)
  loss, binds = clipped_surrogate(ratio, advantages, clip_low=clip_low, clip_high=clip_high)
  return {'policy': (1.0, rows_mean(loss, mask))}, policy_metrics(change, binds[:, None] & mask, mask)

"""CISPO: the importance weight is clipped instead of the update, so that every token keeps its gradient."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from espo_jax.objectives.registered import register
from espo_jax.objectives.terms import AGGREGATIONS, Aggregation, Terms, log_ratio, policy_metrics
from espo_jax.registry import source
from espo_jax.types import Metrics


@register('cispo', advantage='group_zscore')
@source('CISPO, MiniMax-M1, arXiv 2506.13585', 'clip_low')
def cispo(
  logprobs: Float[Array, 'N T'],
  old_logprobs: Float[Array, 'N T'],
  advantages: Float[Array, 'N T'],
  mask: Bool[Array, 'N T'],
  *,
  clip_low: float = 1.0,
  clip_high: float = 0.28,
  aggregation: Aggregation = 'token',
) -> tuple[Terms, Metrics]:
  """REINFORCE with a clipped importance weight, through which no gradient flows (equations 4 and 5).

      loss = sum_i sum_t -sg(clip(r_it, 1 - low, 1 + high)) A_i log pi(a_it) / sum_i |o_i|

  Where PPO's clip binds, a token has no gradient. Here it keeps one, which matters for unlikely tokens that begin a thought.

  Args:
    logprobs: Log-probabilities of the tokens under the current policy.
    old_logprobs: Log-probabilities of the tokens before the update.
    advantages: How much better than expected each token was.
    mask: True on the tokens that count.
    clip_low: How far below 1 the weight may be; at 1 there is no lower bound, as in the paper's experiments.
    clip_high: How far above 1 the weight may be. The paper tunes it and does not publish it [U].
    aggregation: The kind of mean, as in `grpo` [U].
  """
  change = log_ratio(logprobs, old_logprobs, mask)
  ratio = jnp.exp(change)
  weight = jnp.clip(ratio, 1 - clip_low, 1 + clip_high)
  loss = -jax.lax.stop_gradient(weight) * advantages * jnp.where(mask, logprobs, 0.0)
  return {'policy': (1.0, AGGREGATIONS[aggregation](loss, mask))}, policy_metrics(change, (weight != ratio) & mask, mask)

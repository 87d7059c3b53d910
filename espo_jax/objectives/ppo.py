"""Proximal policy optimisation: the clipped surrogate and the clipped value error."""

from jaxtyping import Array, Bool, Float

from espo_jax.objectives.registered import register
from espo_jax.objectives.terms import Terms, clipped_policy, clipped_value
from espo_jax.registry import source
from espo_jax.types import Metrics


@register('ppo', advantage='gae')
@source('PPO, arXiv 1707.06347; dual clip arXiv 1912.09729', 'clip_low', 'clip_high')
def ppo(
  logprobs: Float[Array, 'N T'],
  old_logprobs: Float[Array, 'N T'],
  advantages: Float[Array, 'N T'],
  values: Float[Array, 'N T'],
  old_values: Float[Array, 'N T'],
  returns: Float[Array, 'N T'],
  mask: Bool[Array, 'N T'],
  *,
  clip_low: float = 0.2,
  clip_high: float = 0.2,
  dual_clip: float = 0.0,
  value_clip: float = 0.2,
  value_coef: float = 0.5,
) -> tuple[Terms, Metrics]:
  """The clipped surrogate and the clipped value error. It is the only objective that trains a critic.

      loss = mean_t -min(r_t A_t, clip(r_t, 1 - low, 1 + high) A_t)
             + value_coef mean_t 0.5 max((V_t - R_t)^2, (clip(V_t, V_old_t - value_clip, V_old_t + value_clip) - R_t)^2)

  The means are over all real tokens, `r_t = pi(a_t | s_t) / pi_old(a_t | s_t)`, and `R_t` is the return (Schulman et al. 2017,
  eq. 7 and 9).

  Args:
    logprobs: Log-probabilities of the tokens under the current policy.
    old_logprobs: Log-probabilities of the tokens before the update.
    advantages: How much better than expected each token was.
    values: The current critic's values.
    old_values: Values before the update.
    returns: What the values should have been.
    mask: True on the tokens that count.
    clip_low: How far below 1 the ratio counts.
    clip_high: How far above 1 the ratio counts.
    dual_clip: Bound of the loss where the advantage is negative, as a multiple of `-A`; 0 for none.
    value_clip: How far a value may move from the old one before its error stops falling [U].
    value_coef: Weight of the value error [U].

  Returns:
    The terms with their weights by name, and metrics.
  """
  policy, metrics = clipped_policy(
    logprobs, old_logprobs, advantages, mask, clip_low=clip_low, clip_high=clip_high, dual_clip=dual_clip
  )
  value = clipped_value(values, old_values, returns, mask, clip=value_clip)
  return {'policy': (1.0, policy), 'value': (value_coef, value)}, metrics

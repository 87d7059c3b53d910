"""Group relative policy optimisation: PPO's surrogate without a critic, with the group's mean as the baseline of a row."""

from jaxtyping import Array, Bool, Float

from espo_jax.objectives.registered import register
from espo_jax.objectives.terms import Aggregation, Terms, clipped_policy
from espo_jax.registry import source
from espo_jax.types import Metrics


@register('grpo', advantage='group_zscore')
@source('GRPO, DeepSeekMath, arXiv 2402.03300, eq. 3; dual clip arXiv 1912.09729', 'aggregation')
def grpo(
  logprobs: Float[Array, 'N T'],
  old_logprobs: Float[Array, 'N T'],
  advantages: Float[Array, 'N T'],
  mask: Bool[Array, 'N T'],
  *,
  clip_low: float = 0.2,
  clip_high: float = 0.2,
  dual_clip: float = 0.0,
  aggregation: Aggregation = 'sequence',
) -> tuple[Terms, Metrics]:
  """The clipped surrogate with each row's group-relative advantage, averaged over a row's tokens first and then over rows.

      loss = mean_i mean_t -min(r_it A_i, clip(r_it, 1 - low, 1 + high) A_i)

  The paper's KL penalty against the reference is a separate term: `grpo + kl_k3`, in the paper with `kl_coef = 0.04`.

  Args:
    logprobs: Log-probabilities of the tokens under the current policy.
    old_logprobs: Log-probabilities of the tokens before the update.
    advantages: How much better than expected each token was.
    mask: True on the tokens that count.
    clip_low: How far below 1 the ratio counts [U].
    clip_high: How far above 1 the ratio counts [U].
    dual_clip: Bound of the loss where the advantage is negative, as a multiple of `-A`; 0 for none.
    aggregation: 'sequence' for the mean over rows of each row's token mean, as published; 'token' for the mean over all tokens;
      'constant' for token sums over the horizon.
  """
  policy, metrics = clipped_policy(
    logprobs,
    old_logprobs,
    advantages,
    mask,
    clip_low=clip_low,
    clip_high=clip_high,
    dual_clip=dual_clip,
    aggregation=aggregation,
  )
  return {'policy': (1.0, policy)}, metrics

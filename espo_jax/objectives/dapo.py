"""DAPO: clip-higher, a mean over all tokens, and dynamic sampling of groups whose scores differ."""

from jaxtyping import Array, Bool, Float

from espo_jax.objectives.grpo import grpo
from espo_jax.objectives.registered import register
from espo_jax.objectives.terms import Terms
from espo_jax.registry import source
from espo_jax.types import Metrics


@register('dapo', advantage='group_zscore', draws=10)  # draws: the released recipe's
@source('DAPO, arXiv 2503.14476', 'clip_low', 'clip_high')
def dapo(
  logprobs: Float[Array, 'N T'],
  old_logprobs: Float[Array, 'N T'],
  advantages: Float[Array, 'N T'],
  mask: Bool[Array, 'N T'],
  *,
  clip_low: float = 0.2,
  clip_high: float = 0.28,
  dual_clip: float = 0.0,
) -> tuple[Terms, Metrics]:
  """GRPO's surrogate, averaged over all tokens, with a wider upper clip, so that unlikely tokens may rise.

      loss = sum_i sum_t -min(r_it A_i, clip(r_it, 1 - low, 1 + high) A_i) / sum_i |o_i|,    high > low

  `rollout.max_draws` sets the method's dynamic sampling, and the reward `correct + overlong` is its overlong penalty. With an
  entropy bonus, `dapo + entropy`, it is the first stage of ConciseR (arXiv 2505.21178).

  Args:
    logprobs: Log-probabilities of the tokens under the current policy.
    old_logprobs: Log-probabilities of the tokens before the update.
    advantages: How much better than expected each token was.
    mask: True on the tokens that count.
    clip_low: How far below 1 the ratio counts.
    clip_high: How far above 1 the ratio counts.
    dual_clip: Bound of the loss where the advantage is negative, as a multiple of `-A`; 0 for none.
  """
  return grpo(
    logprobs, old_logprobs, advantages, mask, clip_low=clip_low, clip_high=clip_high, dual_clip=dual_clip, aggregation='token'
  )

"""Dr. GRPO: GRPO without the two normalisations that bias it."""

from jaxtyping import Array, Bool, Float

from espo_jax.objectives.grpo import grpo
from espo_jax.objectives.registered import register
from espo_jax.objectives.terms import Terms
from espo_jax.registry import source
from espo_jax.types import Metrics


@register('drgrpo', advantage='mean_only')
@source('Dr. GRPO, arXiv 2503.20783')
def drgrpo(
  logprobs: Float[Array, 'N T'],
  old_logprobs: Float[Array, 'N T'],
  advantages: Float[Array, 'N T'],
  mask: Bool[Array, 'N T'],
  *,
  clip_low: float = 0.2,
  clip_high: float = 0.2,
) -> tuple[Terms, Metrics]:
  """GRPO's surrogate, summed over a row's tokens and divided by the horizon `T`, whatever the row's own length.

      loss = mean_i 1/T sum_t -min(r_it A_i, clip(r_it, 1 - low, 1 + high) A_i),    A_i = R_i - mean_j R_j

  The default advantage is `mean_only`, which does not divide by the group's deviation.

  Args:
    logprobs: Log-probabilities of the tokens under the current policy.
    old_logprobs: Log-probabilities of the tokens before the update.
    advantages: How much better than expected each token was.
    mask: True on the tokens that count.
    clip_low: How far below 1 the ratio counts [U].
    clip_high: How far above 1 the ratio counts [U].
  """
  return grpo(logprobs, old_logprobs, advantages, mask, clip_low=clip_low, clip_high=clip_high, aggregation='constant')

"""TEPO: each token gets the sequence's ratio, and tokens of positive advantage and falling entropy get a KL penalty."""

from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from espo_jax.objectives.kl import k3
from espo_jax.objectives.masked import masked_mean
from espo_jax.objectives.registered import register
from espo_jax.objectives.terms import (
  AGGREGATIONS,
  Aggregation,
  Terms,
  clipped_surrogate,
  log_ratio,
  policy_metrics,
  row_mean,
  row_sum,
)
from espo_jax.registry import source
from espo_jax.types import Metrics

_LOG_PRODUCT = 20.0  # |log| of a product of ratios is clamped here, far outside any clip and far inside float32
_ENTROPY_NOISE = 1e-5  # nats; a smaller difference is rounding between two programs


def _reads(options: Mapping[str, Any]) -> tuple[str, ...]:
  """The optional arrays that the entropy test and the divergence read."""
  against = {'old': 'old_entropy', 'reference': 'reference_entropy'}[options['entropy_reference']]
  of_test = 'entropy_slope' if options['entropy_test'] == 'first_order' else against
  of_divergence = {'reference': ('reference_logprobs',), 'exact': ('reference_kl',)}
  return of_test, *of_divergence.get(options['divergence'], ())


@register('tepo', advantage='group_zscore', reads=_reads)
@source('TEPO, arXiv 2510.09369 and 2604.12736; no equation is public, so this is a reading of the abstracts')
def tepo(
  logprobs: Float[Array, 'N T'],
  old_logprobs: Float[Array, 'N T'],
  advantages: Float[Array, 'N T'],
  entropy: Float[Array, 'N T'],
  mask: Bool[Array, 'N T'],
  old_entropy: Float[Array, 'N T'] | None = None,
  entropy_slope: Float[Array, 'N T'] | None = None,
  reference_logprobs: Float[Array, 'N T'] | None = None,
  reference_kl: Float[Array, 'N T'] | None = None,
  reference_entropy: Float[Array, 'N T'] | None = None,
  *,
  clip_low: float = 3e-4,
  clip_high: float = 4e-4,
  likelihood: Literal['mean', 'product'] = 'mean',
  aggregation: Aggregation = 'token',
  mask_coef: float = 0.1,
  entropy_test: Literal['current', 'first_order'] = 'current',
  entropy_reference: Literal['old', 'reference'] = 'old',
  divergence: Literal['k3', 'abs', 'reference', 'exact'] = 'k3',
) -> tuple[Terms, Metrics]:
  """The clipped surrogate of the sequence's ratio on each token, and a masked divergence.

      loss = mean_t -min(s_it A_i, clip(s_it, 1 - low, 1 + high) A_i) + mask_coef M_it D_it
      s_it = sg(s_i) pi(a_it) / sg(pi(a_it)),    s_i = exp(mean_t log r_it)
      M_it = 1 where A_i > 0 and the token costs entropy, else 0

  `sg` stops the gradient, so `s_it` has the sequence's value and its own token's gradient.

  The abstracts describe a sequence-level likelihood that is linked to tokens, and a token-level KL mask on positive advantage
  and decreasing entropy. Every default here is ours [U]. `advantage.name = 'mean_only'` gives the advantage without deviation.

  Args:
    logprobs: Log-probabilities of the tokens under the current policy.
    old_logprobs: Log-probabilities of the tokens before the update.
    advantages: How much better than expected each token was.
    entropy: The entropy of the current policy, in nats.
    mask: True on the tokens that count.
    old_entropy: The entropy before the update, for `entropy_test = 'current'`.
    entropy_slope: The first-order change of the entropy along the token's own gradient, for `entropy_test = 'first_order'`.
    reference_logprobs: Log-probabilities of the tokens under the reference policy, for `divergence = 'reference'`.
    reference_kl: The divergence from the reference over the vocabulary, for `divergence = 'exact'`.
    reference_entropy: The entropy of the reference policy, for `entropy_reference = 'reference'`.
    clip_low: How far below 1 the sequence's ratio counts [U].
    clip_high: How far above 1 the sequence's ratio counts [U].
    likelihood: The sequence's ratio: the geometric 'mean' of its tokens' ratios, or their 'product', whose log is clamped [U].
    aggregation: The kind of mean, as in `grpo`; with 'sequence' and `mask_coef = 0` the gradient is GSPO's [U].
    mask_coef: Weight of the masked divergence [U].
    entropy_test: The test for a token that costs entropy. With 'current' its entropy is below that of `entropy_reference`. With
      'first_order' a step along its own gradient would lower the entropy [U].
    entropy_reference: The policy whose entropy the current one is compared with: 'old' at sampling, which no token is below in
      the first minibatch of a rollout, or the 'reference' policy [U].
    divergence: `D`: 'k3' or 'abs' (`|log r|`) from the sampling policy; 'reference', k3 from the reference; 'exact', the exact
      divergence from the reference [U].
  """
  change = log_ratio(logprobs, old_logprobs, mask)
  summed = jnp.clip(row_sum(change, mask), -_LOG_PRODUCT, _LOG_PRODUCT)
  log_s = row_mean(change, mask) if likelihood == 'mean' else summed
  own = jnp.where(mask, logprobs, 0.0)
  s = jax.lax.stop_gradient(jnp.exp(log_s))[:, None] * jnp.exp(own - jax.lax.stop_gradient(own))
  loss, binds = clipped_surrogate(s, advantages, clip_low=clip_low, clip_high=clip_high)
  before = old_entropy if entropy_reference == 'old' else reference_entropy
  masked = jax.lax.stop_gradient((advantages > 0) & _costs_entropy(entropy_test, entropy, before, entropy_slope) & mask)
  gap = _divergence(divergence, change, logprobs, reference_logprobs, reference_kl, mask)
  pull = jnp.where(masked, gap, 0.0)
  aggregate = AGGREGATIONS[aggregation]
  terms: Terms = {'policy': (1.0, aggregate(loss, mask)), 'masked_kl': (mask_coef, aggregate(pull, mask))}
  return terms, policy_metrics(change, binds, mask) | {'kl_mask': masked_mean(masked.astype(jnp.float32), mask)}


def _costs_entropy(
  test: str, entropy: Float[Array, 'N T'], before: Float[Array, 'N T'] | None, slope: Float[Array, 'N T'] | None
) -> Bool[Array, 'N T']:
  if test == 'first_order':
    assert slope is not None, "entropy_test = 'first_order' reads entropy_slope"
    return slope < 0
  assert before is not None, "entropy_test = 'current' reads the entropy that entropy_reference names"
  return entropy < before - _ENTROPY_NOISE


def _divergence(
  kind: str,
  change: Float[Array, 'N T'],
  logprobs: Float[Array, 'N T'],
  reference_logprobs: Float[Array, 'N T'] | None,
  reference_kl: Float[Array, 'N T'] | None,
  mask: Bool[Array, 'N T'],
) -> Float[Array, 'N T']:
  if kind == 'exact':
    assert reference_kl is not None, "divergence = 'exact' reads reference_kl"
    return reference_kl
  if kind == 'reference':
    assert reference_logprobs is not None, "divergence = 'reference' reads reference_logprobs"
    return k3(jnp.where(mask, logprobs, 0.0), jnp.where(mask, reference_logprobs, 0.0))
  return jnp.abs(change) if kind == 'abs' else k3(change, jnp.zeros_like(change))

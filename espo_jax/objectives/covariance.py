"""Clip-Cov and KL-Cov: they restrict the few tokens of high covariance between log-probability and advantage.

These tokens cause most of the fall of the entropy.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from espo_jax.objectives.masked import masked_mean
from espo_jax.objectives.registered import register
from espo_jax.objectives.terms import Terms, clipped_surrogate, log_ratio, policy_metrics, token_mean
from espo_jax.registry import source
from espo_jax.types import Metrics


def covariances(
  advantages: Float[Array, 'N T'], logprobs: Float[Array, 'N T'], mask: Bool[Array, 'N T']
) -> Float[Array, 'N T']:
  """`(A - mean A) (log pi - mean log pi)` of each real token: its part of the covariance that drives the entropy's change."""
  logprobs = jax.lax.stop_gradient(logprobs)
  centred = [jnp.where(mask, y - masked_mean(y, mask), 0.0) for y in (advantages, logprobs)]
  return centred[0] * centred[1]


def highest(x: Float[Array, 'N T'], among: Bool[Array, 'N T'], count: Float[Array, '']) -> Bool[Array, 'N T']:
  """True where `x` is one of the `count` highest values in `among`, at least one. Ties with the last of them are included."""
  ordered = jnp.sort(jnp.where(among, x, -jnp.inf).reshape(-1), descending=True)
  rank = jnp.clip(count.astype(jnp.int32), 1, x.size) - 1
  return among & (x >= ordered[rank])


@register('clip_cov', advantage='group_zscore', ranks=True)
@source('Clip-Cov, arXiv 2505.22617', 'clip_low', 'clip_high', 'fraction', 'cov_low', 'cov_high')
def clip_cov(
  logprobs: Float[Array, 'N T'],
  old_logprobs: Float[Array, 'N T'],
  advantages: Float[Array, 'N T'],
  mask: Bool[Array, 'N T'],
  *,
  clip_low: float = 0.2,
  clip_high: float = 0.2,
  fraction: float = 2e-4,
  cov_low: float = 1.0,
  cov_high: float = 5.0,
) -> tuple[Terms, Metrics]:
  """PPO's surrogate, averaged over all tokens, in which some tokens of high covariance get no gradient.

      loss = mean_t [not dropped_t] (-min(r_t A_t, clip(r_t, 1 - low, 1 + high) A_t))
      cov_t = (log pi_t - mean log pi) (A_t - mean A)

  The tokens are ranked within the minibatch. The paper drops tokens drawn at random from the covariance band. Here the highest
  in the band are dropped [U], so that the loss needs no random key.

  Args:
    logprobs: Log-probabilities of the tokens under the current policy.
    old_logprobs: Log-probabilities of the tokens before the update.
    advantages: How much better than expected each token was.
    mask: True on the tokens that count.
    clip_low: How far below 1 the ratio counts.
    clip_high: How far above 1 the ratio counts.
    fraction: The share of the tokens that is dropped.
    cov_low: The lower bound of the covariance band.
    cov_high: The upper bound of the covariance band.
  """
  change = log_ratio(logprobs, old_logprobs, mask)
  loss, binds = clipped_surrogate(jnp.exp(change), advantages, clip_low=clip_low, clip_high=clip_high)
  cov = covariances(advantages, logprobs, mask)
  band = mask & ~binds & (cov > cov_low) & (cov < cov_high)
  dropped = highest(cov, band, fraction * mask.sum())
  kept = token_mean(jnp.where(dropped, 0.0, loss), mask)
  share = {'held_back': masked_mean(dropped.astype(jnp.float32), mask)}
  return {'policy': (1.0, kept)}, policy_metrics(change, binds, mask) | share


@register('kl_cov', advantage='group_zscore', ranks=True)
@source('KL-Cov, arXiv 2505.22617', 'fraction', 'kl_cov_coef')
def kl_cov(
  logprobs: Float[Array, 'N T'],
  old_logprobs: Float[Array, 'N T'],
  advantages: Float[Array, 'N T'],
  mask: Bool[Array, 'N T'],
  *,
  fraction: float = 2e-3,
  kl_cov_coef: float = 1.0,
) -> tuple[Terms, Metrics]:
  """The unclipped surrogate over all tokens, with a KL penalty on the tokens of highest covariance.

      loss = mean_t -r_t A_t + kl_cov_coef mean_t [tied_t] |log r_t|

  The tokens are ranked within the minibatch. The penalty is relative to the sampling policy.

  Args:
    logprobs: Log-probabilities of the tokens under the current policy.
    old_logprobs: Log-probabilities of the tokens before the update.
    advantages: How much better than expected each token was.
    mask: True on the tokens that count.
    fraction: The share of the tokens that is penalised; the default is published for a 7B model, 2e-4 for a 32B one.
    kl_cov_coef: The weight of the penalty.
  """
  change = log_ratio(logprobs, old_logprobs, mask)
  tied = highest(covariances(advantages, logprobs, mask), mask, fraction * mask.sum())
  surrogate = token_mean(-jnp.exp(change) * advantages, mask)
  tie = token_mean(jnp.where(tied, jnp.abs(change), 0.0), mask)
  metrics = policy_metrics(change, jnp.zeros_like(mask), mask)
  share = {'held_back': masked_mean(tied.astype(jnp.float32), mask)}
  return {'policy': (1.0, surrogate), 'cov_kl': (kl_cov_coef, tie)}, metrics | share

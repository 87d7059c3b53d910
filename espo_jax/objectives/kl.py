"""The KL divergence from a reference policy: estimators from the policy's own samples, and loss terms."""

from collections.abc import Callable
from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from espo_jax.objectives.registered import register
from espo_jax.objectives.terms import AGGREGATIONS, Aggregation, Terms
from espo_jax.registry import source
from espo_jax.types import Metrics, takes_numpy

Estimate = Literal['k1', 'k2', 'k3']


@takes_numpy
def k1(logprobs: Float[Array, '...'], reference: Float[Array, '...']) -> Float[Array, '...']:
  """`d = log p - log q`. Its mean under `p` is `KL(p || q)`. It may be negative, and the mean of its gradient is 0."""
  return logprobs - reference


@takes_numpy
def k2(logprobs: Float[Array, '...'], reference: Float[Array, '...']) -> Float[Array, '...']:
  """`d^2 / 2`. It is biased and never negative, and the mean of its gradient is the gradient of the divergence."""
  return 0.5 * jnp.square(logprobs - reference)


@takes_numpy
def k3(logprobs: Float[Array, '...'], reference: Float[Array, '...']) -> Float[Array, '...']:
  """`e^-d - 1 + d` with `d = log p - log q`: Schulman's low-variance estimate of `KL(policy || reference)`."""
  d = logprobs - reference
  return jnp.exp(-d) - 1 + d


ESTIMATES: dict[str, Callable[..., Array]] = {'k1': k1, 'k2': k2, 'k3': k3}


@takes_numpy
def estimated_kl(
  estimate: Estimate, logprobs: Float[Array, 'N T'], reference: Float[Array, 'N T'], mask: Bool[Array, 'N T']
) -> Float[Array, 'N T']:
  """An estimate on each real token, 0 elsewhere. An overflow on a masked token does not reach the gradient."""
  return ESTIMATES[estimate](jnp.where(mask, logprobs, 0.0), jnp.where(mask, reference, 0.0))


@register('kl_k1')
@source('Schulman 2020, "Approximating KL divergence"')
def kl_k1(
  logprobs: Float[Array, 'N T'],
  reference_logprobs: Float[Array, 'N T'],
  mask: Bool[Array, 'N T'],
  *,
  kl_coef: float = 0.001,
  aggregation: Aggregation = 'token',
) -> tuple[Terms, Metrics]:
  """The estimate `k1` as a loss: `loss = kl_coef mean_t d_t`, `d_t = log pi_t - log pi_ref_t`.

  The term is meant for comparisons: the mean of its gradient is 0, so it adds only noise.

  Args:
    logprobs: Log-probabilities of the tokens under the current policy.
    reference_logprobs: Log-probabilities of the tokens under the reference policy.
    mask: True on the tokens that count.
    kl_coef: The weight of the divergence; the default is HMPO's, GRPO has 0.04 [U].
    aggregation: The kind of mean, as in `grpo`; by default that of the objective in the sum, or 'token' if it has none [U].
  """
  kl = estimated_kl('k1', logprobs, reference_logprobs, mask)
  return {'kl_k1': (kl_coef, AGGREGATIONS[aggregation](kl, mask))}, {}


@register('kl_k2')
@source('Schulman 2020, "Approximating KL divergence"')
def kl_k2(
  logprobs: Float[Array, 'N T'],
  reference_logprobs: Float[Array, 'N T'],
  mask: Bool[Array, 'N T'],
  *,
  kl_coef: float = 0.001,
  aggregation: Aggregation = 'token',
) -> tuple[Terms, Metrics]:
  """The estimate `k2` as a loss: `loss = kl_coef mean_t d_t^2 / 2`, `d_t = log pi_t - log pi_ref_t`.

  Args:
    logprobs: Log-probabilities of the tokens under the current policy.
    reference_logprobs: Log-probabilities of the tokens under the reference policy.
    mask: True on the tokens that count.
    kl_coef: The weight of the divergence; the default is HMPO's, GRPO has 0.04 [U].
    aggregation: The kind of mean, as in `grpo`; by default that of the objective in the sum, or 'token' if it has none [U].
  """
  kl = estimated_kl('k2', logprobs, reference_logprobs, mask)
  return {'kl_k2': (kl_coef, AGGREGATIONS[aggregation](kl, mask))}, {}


@register('kl_k3')
@source('Schulman 2020, "Approximating KL divergence"; as a loss GRPO, arXiv 2402.03300; weight HMPO, 2606.01934', 'kl_coef')
def kl_k3(
  logprobs: Float[Array, 'N T'],
  reference_logprobs: Float[Array, 'N T'],
  mask: Bool[Array, 'N T'],
  *,
  kl_coef: float = 0.001,
  aggregation: Aggregation = 'token',
) -> tuple[Terms, Metrics]:
  """The estimate `k3` as a loss: `loss = kl_coef mean_t exp(-d_t) - 1 + d_t`, `d_t = log pi_t - log pi_ref_t`.

  Args:
    logprobs: Log-probabilities of the tokens under the current policy.
    reference_logprobs: Log-probabilities of the tokens under the reference policy.
    mask: True on the tokens that count.
    kl_coef: The weight of the divergence; the default is HMPO's, GRPO has 0.04.
    aggregation: The kind of mean, as in `grpo`; by default that of the objective in the sum, or 'token' if it has none [U].
  """
  kl = estimated_kl('k3', logprobs, reference_logprobs, mask)
  return {'kl_k3': (kl_coef, AGGREGATIONS[aggregation](kl, mask))}, {}


@register('kl_exact')
@source('the definition')
def kl_exact(
  reference_kl: Float[Array, 'N T'],
  mask: Bool[Array, 'N T'],
  *,
  kl_coef: float = 0.001,
  aggregation: Aggregation = 'token',
) -> tuple[Terms, Metrics]:
  """The divergence over the whole vocabulary: `loss = kl_coef mean_t KL(pi_t || pi_ref_t)`.

  Every update needs a forward pass of the reference policy.

  Args:
    reference_kl: The divergence of each token's distribution from that of the reference policy, in nats.
    mask: True on the tokens that count.
    kl_coef: The weight of the divergence; the default is HMPO's, GRPO has 0.04 [U].
    aggregation: The kind of mean, as in `grpo`; by default that of the objective in the sum, or 'token' if it has none [U].
  """
  return {'kl_exact': (kl_coef, AGGREGATIONS[aggregation](reference_kl, mask))}, {}

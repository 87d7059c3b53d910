"""Loss terms as (numerator, denominator) pairs, so that micro-batches, packing and devices add up to one objective."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from espo_jax.objectives.masked import masked_sum
from espo_jax.types import Metrics


class Term(NamedTuple):
  """A mean in the making: `numerator / denominator` once all parts are added."""

  numerator: Float[Array, '']
  denominator: Float[Array, '']

  @property
  def mean(self) -> Float[Array, '']:
    """The term's value."""
    return self.numerator / jnp.maximum(self.denominator, 1.0)


def clipped_policy(
  logprobs: Float[Array, 'N T'],
  old_logprobs: Float[Array, 'N T'],
  advantages: Float[Array, 'N T'],
  mask: Bool[Array, 'N T'],
  *,
  clip_low: float,
  clip_high: float,
) -> tuple[Term, Metrics]:
  """PPO's clipped surrogate (Schulman et al. 2017, eq. 7), negated, a token mean: `-min(r A, clip(r, 1 - low, 1 + high) A)`."""
  log_ratio = jnp.where(mask, logprobs - old_logprobs, 0.0)
  ratio = jnp.exp(log_ratio)
  clipped = jnp.clip(ratio, 1 - clip_low, 1 + clip_high)
  loss = -jnp.minimum(ratio * advantages, clipped * advantages)
  count = mask.sum().astype(jnp.float32)
  metrics = {
    'clip_fraction': masked_sum((clipped * advantages < ratio * advantages).astype(jnp.float32), mask) / jnp.maximum(count, 1),
    'kl': masked_sum(ratio - 1 - log_ratio, mask) / jnp.maximum(count, 1),
  }
  return Term(masked_sum(loss, mask), count), metrics


def clipped_value(
  values: Float[Array, 'N T'],
  old_values: Float[Array, 'N T'],
  returns: Float[Array, 'N T'],
  mask: Bool[Array, 'N T'],
  *,
  clip: float,
) -> Term:
  """Half the squared error against the returns: the larger of the plain one's and that of values within `clip` of the old."""
  values, old_values, returns = (jnp.where(mask, x, 0.0) for x in (values, old_values, returns))  # a hidden nan has no gradient
  held = old_values + jnp.clip(values - old_values, -clip, clip)
  loss = 0.5 * jnp.maximum(jnp.square(values - returns), jnp.square(held - returns))
  return Term(masked_sum(loss, mask), mask.sum().astype(jnp.float32))


def token_mean(x: Float[Array, 'N T'], mask: Bool[Array, 'N T']) -> Term:
  """A plain mean over real tokens."""
  return Term(masked_sum(x, mask), mask.sum().astype(jnp.float32))


def k3(logprobs: Float[Array, '...'], reference: Float[Array, '...']) -> Float[Array, '...']:
  """Schulman's estimate of `KL(policy || reference)` from its samples, low in variance: `e^-d - 1 + d`, `d = log p - log q`."""
  d = logprobs - reference
  return jnp.exp(-d) - 1 + d


def reference_kl(logprobs: Float[Array, 'N T'], reference: Float[Array, 'N T'], mask: Bool[Array, 'N T']) -> Term:
  """The token mean of `k3`; where the mask hides a token, an overflow has no gradient."""
  return token_mean(k3(jnp.where(mask, logprobs, 0.0), jnp.where(mask, reference, 0.0)), mask)

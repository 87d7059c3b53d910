"""Loss terms as (numerator, denominator) pairs, so that the sums over micro-batches and devices give one loss."""

from collections.abc import Callable
from typing import Literal, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from espo_jax.objectives.masked import masked_sum
from espo_jax.types import Metrics, takes_numpy


class Term(NamedTuple):
  """A mean as a pair: `numerator / denominator` after both are summed over all parts."""

  numerator: Float[Array, '']
  denominator: Float[Array, '']

  @property
  @takes_numpy
  def mean(self) -> Float[Array, '']:
    """The term's value."""
    return self.numerator / jnp.maximum(self.denominator, 1.0)


Terms = dict[str, tuple[float, Term]]  # by name, with their weights: the loss is the sum of `weight * term.mean`
Aggregation = Literal['token', 'sequence', 'constant']


@takes_numpy
def token_mean(x: Float[Array, 'N T'], mask: Bool[Array, 'N T']) -> Term:
  """The mean over all real tokens, in which a long row weighs more than a short one."""
  return Term(masked_sum(x, mask), mask.sum().astype(jnp.float32))


@takes_numpy
def sequence_mean(x: Float[Array, 'N T'], mask: Bool[Array, 'N T']) -> Term:
  """The mean over rows of each row's token mean."""
  return rows_mean(row_mean(x, mask), mask)


def rows_mean(x: Float[Array, 'N'], mask: Bool[Array, 'N T']) -> Term:
  """The mean over rows; a row without real tokens does not count."""
  real = mask.any(axis=1)
  return Term(masked_sum(x, real), real.sum().astype(jnp.float32))


def constant_mean(x: Float[Array, 'N T'], mask: Bool[Array, 'N T']) -> Term:
  """The mean over rows of each row's token sum divided by the horizon `T`, independent of the row's own length."""
  return rows_mean(row_sum(x, mask) / mask.shape[1], mask)


AGGREGATIONS: dict[str, Callable[..., Term]] = {'token': token_mean, 'sequence': sequence_mean, 'constant': constant_mean}


def row_sum(x: Float[Array, 'N T'], mask: Bool[Array, 'N T']) -> Float[Array, 'N']:
  """Each row's sum over its real tokens."""
  return jnp.where(mask, x, 0.0).sum(axis=1)


def row_mean(x: Float[Array, 'N T'], mask: Bool[Array, 'N T']) -> Float[Array, 'N']:
  """Each row's mean over its real tokens; 0 for a row without real tokens."""
  return row_sum(x, mask) / jnp.maximum(mask.sum(axis=1), 1)


def log_ratio(
  logprobs: Float[Array, 'N T'], old_logprobs: Float[Array, 'N T'], mask: Bool[Array, 'N T']
) -> Float[Array, 'N T']:
  """`log pi - log pi_old` on real tokens, 0 elsewhere."""
  return jnp.where(mask, logprobs - old_logprobs, 0.0)


def clipped_surrogate(
  ratio: Float[Array, '...'],
  advantages: Float[Array, '...'],
  *,
  clip_low: float,
  clip_high: float,
  dual_clip: float = 0.0,
) -> tuple[Float[Array, '...'], Bool[Array, '...']]:
  """`-min(r A, clip(r, 1 - low, 1 + high) A)`, elementwise (Schulman et al. 2017, eq. 7), and where the clip binds.

  Args:
    ratio: The importance ratio `r`.
    advantages: The advantages `A`.
    clip_low: How far below 1 the ratio counts.
    clip_high: How far above 1 the ratio counts.
    dual_clip: `c`, the bound of the loss where `A < 0`: it is at most `-c A` (Ye et al. 2020, eq. 5); 0 for no bound.
  """
  clipped = jnp.clip(ratio, 1 - clip_low, 1 + clip_high)
  loss = -jnp.minimum(ratio * advantages, clipped * advantages)
  binds = clipped * advantages < ratio * advantages
  if dual_clip:
    beyond = (advantages < 0) & (loss > -dual_clip * advantages)
    loss, binds = jnp.where(beyond, -dual_clip * advantages, loss), binds | beyond
  return loss, binds


@takes_numpy
def clipped_policy(
  logprobs: Float[Array, 'N T'],
  old_logprobs: Float[Array, 'N T'],
  advantages: Float[Array, 'N T'],
  mask: Bool[Array, 'N T'],
  *,
  clip_low: float,
  clip_high: float,
  dual_clip: float = 0.0,
  aggregation: Aggregation = 'token',
) -> tuple[Term, Metrics]:
  """The clipped surrogate of each token's own ratio, aggregated to one term, with metrics."""
  change = log_ratio(logprobs, old_logprobs, mask)
  ratio = jnp.exp(change)
  loss, binds = clipped_surrogate(ratio, advantages, clip_low=clip_low, clip_high=clip_high, dual_clip=dual_clip)
  return AGGREGATIONS[aggregation](loss, mask), policy_metrics(change, binds, mask)


def policy_metrics(change: Float[Array, 'N T'], binds: Bool[Array, 'N T'], mask: Bool[Array, 'N T']) -> Metrics:
  """Metrics of how far the policy has moved since the rollout.

  Args:
    change: `log pi - log pi_old`, 0 on masked tokens.
    binds: True where the clip removes the gradient.
    mask: True on the tokens that count.
  """
  count = jnp.maximum(mask.sum().astype(jnp.float32), 1)
  return {
    'clip_fraction': masked_sum(binds.astype(jnp.float32), mask) / count,
    'kl': masked_sum(jnp.exp(change) - 1 - change, mask) / count,
  }


@takes_numpy
def clipped_value(
  values: Float[Array, 'N T'],
  old_values: Float[Array, 'N T'],
  returns: Float[Array, 'N T'],
  mask: Bool[Array, 'N T'],
  *,
  clip: float,
) -> Term:
  """Half the squared error against the returns: of the values or of those clipped to `old_values +- clip`, if larger."""
  values, old_values, returns = (jnp.where(mask, x, 0.0) for x in (values, old_values, returns))  # a masked nan has no gradient
  held = old_values + jnp.clip(values - old_values, -clip, clip)
  loss = 0.5 * jnp.maximum(jnp.square(values - returns), jnp.square(held - returns))
  return Term(masked_sum(loss, mask), mask.sum().astype(jnp.float32))

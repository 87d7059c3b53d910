"""Exit policies that read the exit heads: by sampling, by a threshold, by a quantile."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from espo_jax.exits.policy import ExitPolicy, Observation, log_choice
from espo_jax.exits.registered import register
from espo_jax.registry import source
from espo_jax.types import takes_numpy


@register('sampled')
@source('arXiv 2603.21376', 'level')
def sampled(*, level: float = 0.1) -> ExitPolicy:
  """Exits at a block with the probability `q = sigmoid(logit)` of its head. A `q` below `level` counts as 0.

  Args:
    level: The least probability at which a token may exit.
  """

  @takes_numpy
  def hazard(obs: Observation, least: Float[Array, '']) -> Float[Array, 'B S']:
    q = jax.nn.sigmoid(obs.logit)
    return jnp.where(q < least, 0.0, q)

  @takes_numpy
  def choice(logit: Float[Array, '...'], least: Float[Array, '']) -> tuple[Float[Array, '...'], Float[Array, '...']]:
    leave, stay = log_choice(logit)
    # A drawn exit keeps its probability `q` even if an update moves it below the level, because a ratio of 0 has no gradient.
    return leave, jnp.where(jax.nn.sigmoid(logit) < least, 0.0, stay)

  return ExitPolicy(level, hazard=hazard, choice=choice, gated=True)


@register('threshold')
@source('ours')
def threshold(*, level: float = 0.5) -> ExitPolicy:
  """Exits at the first block whose head gives a probability above `level`.

  Args:
    level: The threshold on the probability of a head.
  """

  @takes_numpy
  def hazard(obs: Observation, least: Float[Array, '']) -> Float[Array, 'B S']:
    return (jax.nn.sigmoid(obs.logit) > least).astype(jnp.float32)

  return ExitPolicy(level, hazard=hazard, gated=True)


@register('dynamax')
@source('DYNAMAX, arXiv 2504.20922')
def dynamax(*, level: float = 0.5) -> ExitPolicy:
  """Exits like `threshold`, but skipped blocks copy the keys and values of the last block that ran.

  Args:
    level: The threshold on the probability of a head.
  """
  return threshold(level=level)._replace(kv_fill='copy')


@register('ponder_q')
@source('PALBERT, arXiv 2204.03276', 'level')
def ponder_q(*, level: float = 0.5) -> ExitPolicy:
  """Exits at the first block where the cumulative exit probability of the heads exceeds `level` (Q-exit).

  Args:
    level: The threshold on the cumulative probability.
  """

  @takes_numpy
  def hazard(obs: Observation, quantile: Float[Array, '']) -> Float[Array, 'B S']:
    return (obs.passed > quantile).astype(jnp.float32)

  return ExitPolicy(level, hazard=hazard, gated=True)

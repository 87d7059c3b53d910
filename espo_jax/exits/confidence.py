"""Exits by confidence: CALM's measures, whose threshold decays along the response, and the highest probability."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from espo_jax.exits.policy import ExitPolicy, Observation
from espo_jax.exits.registered import register
from espo_jax.registry import PositiveInt, source
from espo_jax.types import takes_numpy


@takes_numpy
def calm_threshold(
  position: Int[Array, '...'], level: Float[Array, ''] | float, decay: float, horizon: int
) -> Float[Array, '...']:
  """Computes `clip(0.9 level + 0.1 exp(-decay t / horizon), 0, 1)` at response position `t` (CALM, arXiv 2207.07061)."""
  return jnp.clip(0.9 * level + 0.1 * jnp.exp(-decay * position / horizon), 0.0, 1.0)


@takes_numpy
def stream_cosine(now: Float[Array, '... D'], then: Float[Array, '... D']) -> Float[Array, '...']:
  """Computes the cosine of two streams in float32; it is 0 where one of them is zero."""
  now, then = now.astype(jnp.float32), then.astype(jnp.float32)
  norms = jnp.linalg.norm(now, axis=-1) * jnp.linalg.norm(then, axis=-1)
  return (now * then).sum(-1) / jnp.maximum(norms, 1e-12)


@register('confidence')
@source('LGViT, arXiv 2308.00255', 'level')
def confidence(*, level: float = 0.8) -> ExitPolicy:
  """Exits where the highest probability of the readout is at least `level`.

  Args:
    level: The least probability of an exit. LGViT has 0.8 to 0.865.
  """

  @takes_numpy
  def hazard(obs: Observation, level: Float[Array, '']) -> Float[Array, 'B S']:
    return (jax.nn.softmax(obs.readout(obs.state)).max(-1) >= level).astype(jnp.float32)

  return ExitPolicy(level, hazard=hazard)


@register('calm_margin')
@source('CALM, arXiv 2207.07061', 'decay')
def calm_margin(*, level: float = 0.9, decay: float = 4.0, horizon: PositiveInt = 64) -> ExitPolicy:
  """Exits where the two highest probabilities of the readout differ by at least `calm_threshold`.

  Args:
    level: The level of the threshold.
    decay: The rate at which the threshold decays.
    horizon: The number of tokens that the decay rate refers to.
  """

  @takes_numpy
  def hazard(obs: Observation, level: Float[Array, '']) -> Float[Array, 'B S']:
    first, second = jnp.moveaxis(jax.lax.top_k(jax.nn.softmax(obs.readout(obs.state)), 2)[0], -1, 0)
    return (first - second >= calm_threshold(obs.position, level, decay, horizon)).astype(jnp.float32)

  return ExitPolicy(level, hazard=hazard)


@register('calm_cosine')
@source('CALM, arXiv 2207.07061', 'decay')
def calm_cosine(*, level: float = 0.95, decay: float = 4.0, horizon: PositiveInt = 64) -> ExitPolicy:
  """Exits where the last block has changed the direction of the residual stream little.

  The confidence is the cosine between the streams before and after that block. A token exits where the confidence is at least
  `calm_threshold`.

  Args:
    level: The level of the threshold [U].
    decay: The rate at which the threshold decays.
    horizon: The number of tokens that the decay rate refers to [U].
  """

  @takes_numpy
  def hazard(obs: Observation, level: Float[Array, '']) -> Float[Array, 'B S']:
    cosine = stream_cosine(obs.state, obs.before)
    return (cosine >= calm_threshold(obs.position, level, decay, horizon)).astype(jnp.float32)

  return ExitPolicy(level, hazard=hazard)

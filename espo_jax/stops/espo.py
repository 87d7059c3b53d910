"""ESPO's stop rule (arXiv 2605.29860): it compares the normalised and smoothed regret with the critic's value."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from espo_jax.registry import source
from espo_jax.stops.controller import Score, Threshold, controlled
from espo_jax.stops.registered import register
from espo_jax.stops.rule import Adaptive, Observation, StopState


def smoothed_regret(
  state: StopState, regret: Float[Array, 'B'], *, smoothing: float, clip: float, delta: float
) -> Float[Array, 'B']:
  """Computes one step of `z_t = a z_{t-1} + (1 - a) clip((g_t - mu) / sqrt(var + delta), -c, c)`."""
  adaptive = state.adaptive
  normalised = jnp.clip((regret - adaptive.mu) / jnp.sqrt(adaptive.var + delta), -clip, clip)
  return smoothing * state.z + (1 - smoothing) * normalised


@register('espo')
@source('ESPO, arXiv 2605.29860', 'smoothing', 'epsilon', 'beta_0', 'eta', 'target_rate', 'momentum')
@controlled(beta_0=7.0)
def espo(*, smoothing: float = 0.9, clip: float = 5.0, delta: float = 1e-8, epsilon: float = 0.2) -> tuple[Score, Threshold]:
  """Stops a row once `z_t > beta max(V(s_t), epsilon)`. There is no patience and no minimum length.

  The defaults are published, except those of `clip`, `delta`, `beta_min` and `beta_max`, which the paper leaves out [U].

  Args:
    smoothing: `a_s`, the smoothing of z, which averages over about `1 / (1 - a_s)` tokens.
    clip: The bound on the absolute normalised regret, and hence on that of z.
    delta: The constant added to the variance.
    epsilon: The lower bound of the value that the threshold is proportional to.
  """

  def score(state: StopState, obs: Observation) -> Array:
    return smoothed_regret(state, obs.regret, smoothing=smoothing, clip=clip, delta=delta)

  def threshold(adaptive: Adaptive, values: Array) -> Array:
    return adaptive.beta * jnp.maximum(values, epsilon)

  return score, threshold

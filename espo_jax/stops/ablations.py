"""The ablations of ESPO's stop rule: each drops a part of it. All except `never` share its controller.

`random` stops at the rate that the run's own rule, `stop.name`, had on average over its updates.
"""

import functools

import jax.numpy as jnp
from jaxtyping import Array

from espo_jax.registry import source
from espo_jax.stops.controller import Control, Score, Threshold, at_beta, controlled, controlled_rule
from espo_jax.stops.espo import smoothed_regret
from espo_jax.stops.registered import register
from espo_jax.stops.rule import Adaptive, Observation, StopRule, StopState


@register('regret_only')
@source('ESPO, arXiv 2605.29860, ablation', 'smoothing', 'eta', 'target_rate', 'momentum')
@controlled(beta_0=1.4)
def regret_only(*, smoothing: float = 0.9, clip: float = 5.0, delta: float = 1e-8) -> tuple[Score, Threshold]:
  """Stops a row once `z_t > beta`, without the critic (ESPO, ablation).

  Args:
    smoothing: `a_s`, the smoothing of z, which averages over about `1 / (1 - a_s)` tokens.
    clip: The bound on the absolute normalised regret, and hence on that of z [U].
    delta: The constant added to the variance [U].
  """

  def score(state: StopState, obs: Observation) -> Array:
    return smoothed_regret(state, obs.regret, smoothing=smoothing, clip=clip, delta=delta)

  return score, at_beta


@register('value_only')
@source('ESPO, arXiv 2605.29860, ablation', 'eta', 'target_rate', 'momentum')
@controlled(beta_0=-0.2, beta_min=-1.0, beta_max=1.0)
def value_only() -> tuple[Score, Threshold]:
  """Stops a row once `V(s_t) < -beta`, without the regret (ESPO, ablation). The score is `-V`."""

  def score(state: StopState, obs: Observation) -> Array:
    del state
    return -obs.values

  return score, at_beta


@register('random')
@source('ESPO, arXiv 2605.29860, ablation', 'eta', 'target_rate', 'momentum')
@controlled(beta_0=5.0)
def random_stop() -> tuple[Score, Threshold]:
  """Stops at each token with probability `exp(-beta)`, with the same target rate (ESPO, ablation).

  The score is a draw from Exp(1).
  """

  def score(state: StopState, obs: Observation) -> Array:
    del state
    return -jnp.log(jnp.maximum(obs.noise, jnp.finfo(jnp.float32).tiny))

  return score, at_beta


@register('never')
@source('PPO, arXiv 1707.06347', 'momentum')
@functools.cache  # programs are compiled for a rule, and this one is asked for in many places
def never(*, momentum: float = 0.99) -> StopRule:
  """Stops no row: ESPO with this rule is plain PPO. The running moments of the regret are still updated.

  Args:
    momentum: The momentum of the running moments of the regret.
  """

  def score(state: StopState, obs: Observation) -> Array:
    del obs
    return state.z

  def threshold(adaptive: Adaptive, values: Array) -> Array:
    del adaptive
    return jnp.full(values.shape, jnp.inf)

  still = Control(0.0, beta_max=0.0, eta=0.0, target_rate=0.0, momentum=momentum)
  return controlled_rule(score, threshold, still)

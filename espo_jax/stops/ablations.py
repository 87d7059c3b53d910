"""The rules ESPO is compared with: each drops one of its parts. All but `never` share its controller."""

import jax.numpy as jnp
from jaxtyping import Array

from espo_jax.registry import source
from espo_jax.stops.base import Adaptive, Observation, StopRule, StopState, controlled_rule
from espo_jax.stops.espo import smoothed_regret


def _beta(adaptive: Adaptive, values: Array) -> Array:
  return jnp.broadcast_to(adaptive.beta, values.shape)


@source('ESPO, arXiv 2605.29860, ablation', 'smoothing', 'eta', 'target_rate', 'momentum')
def regret_only(
  *,
  smoothing: float = 0.9,
  clip: float = 5.0,
  delta: float = 1e-8,
  beta_0: float = 1.4,
  beta_min: float = 0.0,
  beta_max: float = 100.0,
  eta: float = 0.1,
  target_rate: float = 0.25,
  momentum: float = 0.99,
) -> StopRule:
  """Stop once `z_t > beta`, whatever the critic says (ESPO, ablation). The arguments are those of `espo`."""

  def score(state: StopState, obs: Observation) -> Array:
    return smoothed_regret(state, obs.regret, smoothing=smoothing, clip=clip, delta=delta)

  return controlled_rule(
    score,
    _beta,
    beta_0=beta_0,
    beta_min=beta_min,
    beta_max=beta_max,
    eta=eta,
    target_rate=target_rate,
    momentum=momentum,
  )


@source('ESPO, arXiv 2605.29860, ablation', 'eta', 'target_rate', 'momentum')
def value_only(
  *,
  beta_0: float = -0.2,
  beta_min: float = -1.0,
  beta_max: float = 1.0,
  eta: float = 0.1,
  target_rate: float = 0.25,
  momentum: float = 0.99,
) -> StopRule:
  """Stop once `V(s_t) < -beta`, whatever was sampled (ESPO, ablation). The score is `-V`."""

  def score(state: StopState, obs: Observation) -> Array:
    del state
    return -obs.values

  return controlled_rule(
    score,
    _beta,
    beta_0=beta_0,
    beta_min=beta_min,
    beta_max=beta_max,
    eta=eta,
    target_rate=target_rate,
    momentum=momentum,
  )


@source('ESPO, arXiv 2605.29860, ablation', 'eta', 'target_rate', 'momentum')
def random_stop(
  *,
  beta_0: float = 5.0,
  beta_min: float = 0.0,
  beta_max: float = 100.0,
  eta: float = 0.1,
  target_rate: float = 0.25,
  momentum: float = 0.99,
) -> StopRule:
  """Stop each token with probability `exp(-beta)`, steered to the same rate (ESPO, ablation). The score is Exp(1)."""

  def score(state: StopState, obs: Observation) -> Array:
    del state
    return -jnp.log(jnp.maximum(obs.noise, jnp.finfo(jnp.float32).tiny))

  return controlled_rule(
    score,
    _beta,
    beta_0=beta_0,
    beta_min=beta_min,
    beta_max=beta_max,
    eta=eta,
    target_rate=target_rate,
    momentum=momentum,
  )


@source('PPO, arXiv 1707.06347', 'momentum')
def never(*, momentum: float = 0.99) -> StopRule:
  """No row is ever stopped: ESPO with this rule is plain PPO. The regret's moments are still kept."""

  def score(state: StopState, obs: Observation) -> Array:
    del obs
    return state.z

  def threshold(adaptive: Adaptive, values: Array) -> Array:
    del adaptive
    return jnp.full(values.shape, jnp.inf)

  return controlled_rule(score, threshold, beta_0=0.0, beta_min=0.0, beta_max=0.0, eta=0.0, target_rate=0.0, momentum=momentum)

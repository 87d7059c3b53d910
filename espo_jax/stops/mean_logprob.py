"""A stop rule of ours: the mean log-probability of a row's tokens so far, which no critic and no other row is needed for."""

import jax.numpy as jnp
from jaxtyping import Array

from espo_jax.registry import source
from espo_jax.stops.controller import Control, at_beta, controlled_rule
from espo_jax.stops.registered import register
from espo_jax.stops.rule import Adaptive, Observation, StopRule, StopState
from espo_jax.types import takes_numpy


@register('mean_logprob')
@source('ours; confidences of this kind after DeepConf, arXiv 2508.15260')
def mean_logprob(
  *,
  least_tokens: int = 16,
  beta_0: float = 0.5,
  beta_min: float = 0.0,
  beta_max: float = 20.0,
  eta: float = 0.1,
  target_rate: float = 0.25,
  momentum: float = 0.99,
) -> StopRule:
  """Stops a row once `-mean(log pi(a_1), ..., log pi(a_t)) > beta` and `t >= least_tokens`.

  The score is this mean, and 0 before `least_tokens`. ESPO's controller adjusts beta.

  Args:
    least_tokens: The number of tokens before which no row stops.
    beta_0: The first threshold, in nats per token.
    beta_min: The lowest threshold, at least 0.
    beta_max: The highest threshold.
    eta: The step size of the controller.
    target_rate: `tau`, the share of rows to stop.
    momentum: The momentum of the running moments of the regret.
  """

  def score(state: StopState, obs: Observation) -> Array:
    del obs
    total, count = state.row  # of -log-probabilities and of tokens
    return jnp.where(count >= least_tokens, total / jnp.maximum(count, 1.0), 0.0)

  plain = controlled_rule(score, at_beta, Control(beta_0, beta_min, beta_max, eta, target_rate, momentum))

  @takes_numpy
  def init(batch: int, adaptive: Adaptive | None = None) -> StopState:
    return plain.init(batch, adaptive).replace(row=(jnp.zeros(batch), jnp.zeros(batch)))

  @takes_numpy
  def update(state: StopState, obs: Observation) -> tuple[StopState, Array, Array]:
    total, count = state.row
    return plain.update(state.replace(row=(total - obs.logprobs, count + 1.0)), obs)

  return plain._replace(init=init, update=update, reads=frozenset({'logprobs'}))

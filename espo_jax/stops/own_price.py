"""Two stop rules of ours, which compare a row with a fresh row of its own problem by a head that is fitted between batches."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from espo_jax.registry import source
from espo_jax.stops import evidence
from espo_jax.stops.controller import Control, Memory, at_beta, controlled_rule
from espo_jax.stops.head import Forecast, forecast, with_head
from espo_jax.stops.registered import register
from espo_jax.stops.rule import Observation, StopRule, StopState

_log = jax.nn.log_sigmoid  # of the logit of a probability
Worth = Callable[[Forecast, Forecast], Float[Array, 'B']]  # how much less a row is worth than a fresh one, from both forecasts


def _priced(worth: Worth, control: Control, *, memory: float, least_batches: int) -> StopRule:
  def score(state: StopState, seen: Observation) -> Array:
    del seen
    head = state.adaptive.head
    assert head is not None  # `with_head` sets it
    known = worth(forecast(head, state.row), forecast(head, evidence.at_start(state.row)))
    return jnp.where(head.batches >= least_batches, known, 0.0)

  keeps = Memory(evidence.first, evidence.step, evidence.READS)
  return with_head(controlled_rule(score, at_beta, control, keeps), memory=memory)


@register('own_price')
@source('ours')
def own_price(
  *,
  beta_0: float = 0.223,
  beta_min: float = 0.0,
  beta_max: float = 5.0,
  min_saving: float = 0.1,
  least_batches: int = 2,
  memory: float = 0.9,
  momentum: float = 0.99,
) -> StopRule:
  """Stops a row once its tokens buy less success than those of a fresh row of its problem: `p_t / R_t < kappa p_0 / R_0`.

  `p` is the head's probability of success and `R` the mean number of tokens left, now and at the row's start. The score is
  `log(p_0 R_t / (p_t R_0))`, and beta is `-log(kappa)`. A critic's value of the prompt tells the starts of problems apart, so
  the rule does not save by giving up hard ones. Without a critic, as in a replay of such a recording, all starts are one.

  A head that is wrong about the first tokens stops every row there, after which it learns from shadow rows alone. So the rule
  waits for a fitted head. With kappa above 1, which is a beta below 0, all rows would stop.

  Args:
    beta_0: `-log(kappa)`, which does not move; 0.223 is kappa 0.8.
    beta_min: The lowest beta.
    beta_max: The highest beta.
    min_saving: The share of `R_0` that must be left; a row with less is not worth a stop.
    least_batches: The number of batches that the head is fitted to before the rule stops a row.
    memory: The factor by which what earlier batches left behind in the head decays.
    momentum: The momentum of the running moments of the regret.
  """

  def worth(now: Forecast, fresh: Forecast) -> Array:
    worse = _log(fresh.logit) - _log(now.logit) + now.log_remaining - fresh.log_remaining
    return jnp.where(now.remaining >= min_saving * fresh.remaining, worse, 0.0)

  control = Control(beta_0, beta_min, beta_max, eta=0.0, target_rate=0.0, momentum=momentum)
  return _priced(worth, control, memory=memory, least_batches=least_batches)


@register('wald')
@source('ours; after the sequential test of Wald, 1945')
def wald(
  *,
  beta_0: float = 0.223,
  beta_min: float = 0.0,
  beta_max: float = 5.0,
  least_batches: int = 2,
  memory: float = 0.9,
  momentum: float = 0.99,
) -> StopRule:
  """Stops a row once less is left to learn per token than in a fresh row: `p_t (1 - p_t) / R_t < kappa p_0 (1 - p_0) / R_0`.

  `p (1 - p)` is the variance of the verdict, which the rest of the row would resolve. So the rule ends sure successes as well
  as sure failures, and `stop.returns` should be 'head'. The score is the logarithm of the ratio, and beta is `-log(kappa)`.

  Args:
    beta_0: `-log(kappa)`, which does not move; 0.223 is kappa 0.8.
    beta_min: The lowest beta.
    beta_max: The highest beta.
    least_batches: The number of batches that the head is fitted to before the rule stops a row.
    memory: The factor by which what earlier batches left behind in the head decays.
    momentum: The momentum of the running moments of the regret.
  """

  def worth(now: Forecast, fresh: Forecast) -> Array:
    def variance(its: Forecast) -> Array:
      return _log(its.logit) + _log(-its.logit)

    return variance(fresh) - variance(now) + now.log_remaining - fresh.log_remaining

  control = Control(beta_0, beta_min, beta_max, eta=0.0, target_rate=0.0, momentum=momentum)
  return _priced(worth, control, memory=memory, least_batches=least_batches)

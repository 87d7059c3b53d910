"""A head for the hazard of failure, and the rule that ends a row once it has survived against too great a hazard."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from espo_jax.registry import source
from espo_jax.stops import evidence
from espo_jax.stops.controller import Control, Memory, at_beta, controlled_rule
from espo_jax.stops.registered import register
from espo_jax.stops.regression import FEATURES, Hazard, new_hazard, newton
from espo_jax.stops.rule import Adaptive, Hindsight, Observation, StopRule, StopState
from espo_jax.types import takes_numpy


@takes_numpy
def fit_hazard(hazard: Hazard, hindsight: Hindsight, *, memory: float, steps: int = 8) -> Hazard:
  """Fits the head to a batch by the likelihood of discrete times of failure.

  A wrong row fails with its last token, at time `n`, and a right row is censored there. With the hazard `h_t` after each token,
  minus the log-likelihood of a row is

      -sum_{t<n} log(1 - h_t) - log h_n,  or  -sum_{t<=n} log(1 - h_t)  for a right row

  Args:
    hazard: The head before the batch.
    hindsight: The batch. A row weighs as many rows as it represents.
    memory: The factor by which what earlier batches left behind decays.
    steps: The Newton steps.
  """
  columns = jnp.arange(hindsight.z.shape[1], dtype=jnp.int32)[None]
  lived = (columns >= hindsight.begins[:, None]) & (columns < hindsight.full_length[:, None])
  fails = jnp.where(columns == hindsight.full_length[:, None] - 1, 1 - hindsight.correct[:, None], 0.0)
  weight = jnp.where(lived, hindsight.weight[:, None], 0.0)
  rate = jnp.clip((weight * fails).sum() / jnp.maximum(weight.sum(), 1e-8), 1e-6, 1 - 1e-6)
  level = hazard.failure.weights.at[0].set(jnp.log(rate) - jnp.log1p(-rate))  # so that Newton begins within its reach
  begin = hazard.failure.replace(weights=jnp.where(hazard.batches == 0, level, hazard.failure.weights))
  x = evidence.features(evidence.along(hindsight.seen, hindsight.begins)).reshape(-1, FEATURES)
  fitted = newton(begin, x, fails.reshape(-1), weight.reshape(-1), memory=memory, steps=steps)
  return Hazard(fitted, hazard.batches + 1)


@register('hazard_head')
@source('ours; the likelihood of discrete times of failure')
def hazard_head(
  *,
  beta_0: float = 0.693,
  beta_min: float = 0.0,
  beta_max: float = 20.0,
  least_batches: int = 2,
  memory: float = 0.9,
  momentum: float = 0.99,
) -> StopRule:
  """Stops a row once its survival `prod_t (1 - h_t)` falls below `exp(-beta)`, where `h_t` is the hazard of failing at token t.

  The score is minus the logarithm of the survival, the sum of `-log(1 - h_t)`. A logistic head gives the hazard. It is fitted
  between batches to rows whose own end is known: a wrong row fails with its last token, and a right one is censored there. That
  a failure becomes evident only at a row's end is our reading, and so is the use of survival as a rule [I]. The rule
  waits for a fitted head.

  Args:
    beta_0: Minus the logarithm of the survival at which a row stops, which does not move; 0.693 is a survival of one half.
    beta_min: The lowest beta.
    beta_max: The highest beta.
    least_batches: The number of batches that the head is fitted to before the rule stops a row.
    memory: The factor by which what earlier batches left behind in the head decays.
    momentum: The momentum of the running moments of the regret.
  """

  def score(state: StopState, seen: Observation) -> Array:
    del seen
    head = state.adaptive.hazard
    assert head is not None  # `with_hazard` sets it
    more = jax.nn.softplus(evidence.features(state.row) @ head.failure.weights)  # -log(1 - h)
    return jnp.where(head.batches >= least_batches, state.z + more, 0.0)

  control = Control(beta_0, beta_min, beta_max, eta=0.0, target_rate=0.0, momentum=momentum)
  plain = controlled_rule(score, at_beta, control, Memory(evidence.first, evidence.step, evidence.READS))
  return with_hazard(plain, new_hazard(), memory=memory)


def with_hazard(rule: StopRule, hazard: Hazard, *, memory: float) -> StopRule:
  """Returns the rule with a hazard's head in its state, which is fitted after each batch.

  Args:
    rule: The rule.
    hazard: The head that a training starts from.
    memory: The factor by which what earlier batches left behind decays.
  """

  def init(batch: int, adaptive: Adaptive | None = None) -> StopState:
    state = rule.init(batch, adaptive)
    return state if adaptive is not None else state.replace(adaptive=state.adaptive.replace(hazard=hazard))

  @takes_numpy
  def adapt(
    adaptive: Adaptive, regret: Float[Array, 'N T'], mask: Bool[Array, 'N T'], stopped: Bool[Array, 'N'], hindsight: Hindsight
  ) -> Adaptive:
    assert adaptive.hazard is not None  # `init` sets it
    fitted = fit_hazard(adaptive.hazard, hindsight, memory=memory)
    return rule.adapt(adaptive, regret, mask, stopped, hindsight).replace(hazard=fitted)

  return rule._replace(init=init, adapt=adapt)

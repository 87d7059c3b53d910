"""Ours: regret alone, its threshold set by the share of right answers that may be lost, not by a share of rows to stop."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from espo_jax.registry import source
from espo_jax.stops.controller import Control, at_beta, controlled_rule
from espo_jax.stops.espo import smoothed_regret
from espo_jax.stops.registered import register
from espo_jax.stops.rule import Adaptive, Hindsight, Observation, StopRule, StopState
from espo_jax.types import takes_numpy

_LEVELS = 64  # thresholds that account is kept of


@register('risk_control')
@source('ours; the bound after conformal risk control, arXiv 2208.02814')
def risk_control(
  *,
  smoothing: float = 0.9,
  clip: float = 5.0,
  delta: float = 1e-8,
  beta_0: float = 1.4,
  beta_min: float = 0.05,
  beta_max: float = 5.0,
  budget: float = 0.02,
  memory: float = 0.9,
  momentum: float = 0.99,
) -> StopRule:
  """Stop once ESPO's `z_t > beta`, at the lowest beta that loses a small share of the right answers.

  After each batch, account is kept of the rows that are right and not stopped, shadow rows standing for those that were: by
  threshold, how many of them would have been stopped. Sums fade by `memory` a batch. Beta is then the lowest of 64 thresholds,
  from `beta_min` to `beta_max`, for which `(lost + 1) / (right + 1) <= budget`; as long as there is none, before about
  `1 / budget` right answers, it is `beta_0`. So the rule stops as many rows as the policy fails in a way that regret tells,
  however many these are. There is no critic in it: a threshold that scales with V moves as V does, faster than the account.
  Shadow rows have to be among the stopped ones.

  Args:
    smoothing: `a_s`.
    clip: Bound on the normalised regret.
    delta: Added to the variance.
    beta_0: The first threshold.
    beta_min: The lowest, above 0.
    beta_max: The highest, at which no row should stop: z is at most `clip`.
    budget: The share of right answers that may be lost.
    memory: The share of the account that a batch leaves in place.
    momentum: The momentum of the running moments.
  """
  levels = np.geomspace(beta_min, beta_max, _LEVELS).astype(jnp.float32)

  def score(state: StopState, obs: Observation) -> Array:
    return smoothed_regret(state, obs.regret, smoothing=smoothing, clip=clip, delta=delta)

  control = Control(beta_0, beta_min=beta_min, beta_max=beta_max, eta=0.0, target_rate=0.0, momentum=momentum)
  plain = controlled_rule(score, at_beta, control)

  def init(batch: int, adaptive: Adaptive | None = None) -> StopState:
    state = plain.init(batch, adaptive)
    return state if adaptive is not None else state.replace(adaptive=state.adaptive.replace(account=jnp.zeros(_LEVELS + 1)))

  @takes_numpy
  def adapt(
    adaptive: Adaptive, regret: Float[Array, 'N T'], mask: Bool[Array, 'N T'], stopped: Bool[Array, 'N'], hindsight: Hindsight
  ) -> Adaptive:
    assert adaptive.account is not None  # of `init`
    highest = jnp.where(hindsight.stoppable, hindsight.z, -jnp.inf).max(axis=1)
    right = hindsight.weight * hindsight.correct
    lost = jnp.where(highest[:, None] > levels[None], right[:, None], 0.0).sum(axis=0)
    account = memory * adaptive.account + jnp.append(lost, right.sum())
    within = account[:-1] + 1 <= budget * (account[-1] + 1)
    beta = jnp.where(within.any(), jnp.asarray(levels)[within.argmax()], beta_0)
    adaptive = plain.adapt(adaptive, regret, mask, stopped)
    return adaptive.replace(beta=jnp.where(adaptive.enabled, beta, adaptive.beta), account=account)

  return plain._replace(init=init, adapt=adapt)

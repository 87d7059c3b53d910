"""A stop rule of ours: the threshold on the regret follows from the share of correct answers that may be lost."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from espo_jax.registry import source
from espo_jax.stops.controller import Control, at_beta, controlled_rule
from espo_jax.stops.espo import smoothed_regret
from espo_jax.stops.registered import register
from espo_jax.stops.rule import Adaptive, Hindsight, Observation, StopRule, StopState
from espo_jax.types import takes_numpy

_LEVELS = 64  # number of candidate thresholds


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
  """Stops a row once ESPO's `z_t > beta`, with the lowest beta that loses at most a share `budget` of the correct answers.

  There are 64 candidate thresholds from `beta_min` to `beta_max`. After each batch the rule counts, for each of them, the
  correct rows that it would have stopped, `lost`, and all correct rows, `right`. Rows that were not stopped count, and shadow
  rows represent the stopped ones. The counts are multiplied by `memory` before each batch is added.

  Beta is the lowest threshold with `(lost + 1) / (right + 1) <= budget`. It is `beta_0` while there is none, which lasts for
  about `1 / budget` correct answers. The stop rate is not set: it follows from how many failures show up in the regret.

  The rule reads no critic, because a threshold proportional to V would move with V, faster than the counts. It needs shadow
  rows among the stopped rows.

  Args:
    smoothing: `a_s`, the smoothing of z.
    clip: The bound on the absolute normalised regret.
    delta: The constant added to the variance.
    beta_0: The first threshold.
    beta_min: The lowest threshold, above 0.
    beta_max: The highest threshold, at which no row should stop because z is at most `clip`.
    budget: The share of correct answers that may be lost.
    memory: The factor by which the counts decay per batch.
    momentum: The momentum of the running moments of the regret.
  """
  levels = np.geomspace(beta_min, beta_max, _LEVELS).astype(jnp.float32)

  def score(state: StopState, obs: Observation) -> Array:
    return smoothed_regret(state, obs.regret, smoothing=smoothing, clip=clip, delta=delta)

  control = Control(beta_0, beta_min=beta_min, beta_max=beta_max, eta=0.0, target_rate=0.0, momentum=momentum)
  plain = controlled_rule(score, at_beta, control, account=jnp.zeros(_LEVELS + 1))

  @takes_numpy
  def adapt(
    adaptive: Adaptive, regret: Float[Array, 'N T'], mask: Bool[Array, 'N T'], stopped: Bool[Array, 'N'], hindsight: Hindsight
  ) -> Adaptive:
    assert adaptive.account is not None  # `init` sets it
    highest = jnp.where(hindsight.stoppable, hindsight.z, -jnp.inf).max(axis=1)
    right = hindsight.weight * hindsight.correct
    lost = jnp.where(highest[:, None] > levels[None], right[:, None], 0.0).sum(axis=0)
    account = memory * adaptive.account + jnp.append(lost, right.sum())
    within = account[:-1] + 1 <= budget * (account[-1] + 1)
    beta = jnp.where(within.any(), jnp.asarray(levels)[within.argmax()], beta_0)
    adaptive = plain.adapt(adaptive, regret, mask, stopped)
    return adaptive.replace(beta=jnp.where(adaptive.enabled, beta, adaptive.beta), account=account)

  return plain._replace(adapt=adapt)

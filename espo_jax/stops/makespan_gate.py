"""A stop rule that is armed only where it saves tokens per solved problem, at the threshold that saves most."""

import jax
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
_UNARMED = float('inf')


@takes_numpy
def gate_counts(hindsight: Hindsight, levels: Float[Array, 'K']) -> tuple[Float[Array, 'K'], Float[Array, 'K']]:
  """Counts the tokens that a batch would take with each threshold on the score, and the rows that it would solve.

  A row that is stopped is not solved, and takes its tokens up to the first one whose score is above the threshold.

  Args:
    hindsight: The batch.
    levels: The thresholds.
  """
  scores = jnp.where(hindsight.stoppable, hindsight.z, -jnp.inf)
  highest = jax.lax.cummax(scores, axis=1)
  before = jax.vmap(lambda its: jnp.searchsorted(its, levels, side='right'))(highest)  # tokens before the first one above
  stopped = before < scores.shape[1]
  length = jnp.where(stopped, before + 1, hindsight.full_length[:, None]) - hindsight.begins[:, None]
  weight, length = hindsight.weight[:, None], length.astype(hindsight.weight.dtype)
  solved = jnp.where(stopped, 0.0, weight * hindsight.correct[:, None])
  return (weight * length).sum(axis=0), solved.sum(axis=0)


@register('makespan_gate')
@source('ours; failures that are foretold after arXiv 2301.10846')
def makespan_gate(
  *,
  smoothing: float = 0.9,
  clip: float = 5.0,
  delta: float = 1e-8,
  beta_0: float = _UNARMED,
  beta_min: float = 0.05,
  beta_max: float = 5.0,
  reset_tokens: float = 0.0,
  least_right: float = 50.0,
  memory: float = 0.9,
  momentum: float = 0.99,
) -> StopRule:
  """Stops a row once ESPO's `z_t > beta`, with the beta of fewest expected tokens per solved problem, if it beats no stops.

  The paper asks of a predictor of failures whether acting on it shortens the time to a success, by a closed form of its
  confusion matrix. The form here is ours, by a renewal argument [I]: attempts at a problem are repeated until one succeeds.
  With the tokens of all rows, the rows that are right and not stopped, `solved`, and the others, `unsolved`, the expectation is

      (tokens + reset_tokens unsolved) / solved

  It is counted for 64 thresholds from `beta_min` to `beta_max` and for none, after each batch. Rows that were not stopped
  count, and shadow rows represent the stopped ones: without them nobody knows which stopped rows would have been right. Beta is
  infinite while no threshold is below none.

  The expectation pools all problems. So the rule also saves by giving up on hard ones, which `own_price` does not.

  Args:
    smoothing: `a_s`, the smoothing of z.
    clip: The bound on the absolute normalised regret.
    delta: The constant added to the variance.
    beta_0: The threshold before enough right rows are counted; infinity stops no row.
    beta_min: The lowest threshold, above 0.
    beta_max: The highest threshold.
    reset_tokens: The cost of beginning another attempt, in tokens.
    least_right: The number of right rows in the counts below which beta stays `beta_0`.
    memory: The factor by which the counts decay per batch.
    momentum: The momentum of the running moments of the regret.
  """
  levels = np.append(np.geomspace(beta_min, beta_max, _LEVELS), _UNARMED).astype(jnp.float32)

  def score(state: StopState, seen: Observation) -> Array:
    return smoothed_regret(state, seen.regret, smoothing=smoothing, clip=clip, delta=delta)

  still = Control(beta_0, beta_min=beta_min, beta_max=beta_max, eta=0.0, target_rate=0.0, momentum=momentum)
  blank = jnp.zeros(2 * levels.size + 1)  # by threshold the tokens, then the solved rows; the number of rows
  plain = controlled_rule(score, at_beta, still, account=blank)

  @takes_numpy
  def adapt(
    adaptive: Adaptive, regret: Float[Array, 'N T'], mask: Bool[Array, 'N T'], stopped: Bool[Array, 'N'], hindsight: Hindsight
  ) -> Adaptive:
    assert adaptive.account is not None  # `init` sets it
    counts = jnp.concatenate([*gate_counts(hindsight, jnp.asarray(levels)), hindsight.weight.sum()[None]])
    account = memory * adaptive.account + counts
    tokens, solved = account[: levels.size], account[levels.size : -1]
    spent = tokens + reset_tokens * (account[-1] - solved)
    expected = jnp.where(solved > 0, spent / jnp.maximum(solved, 1e-8), jnp.inf)
    best = jnp.where(expected.min() < expected[-1], expected.argmin(), levels.size - 1)
    beta = jnp.where(solved[-1] >= least_right, jnp.asarray(levels)[best], beta_0)
    adaptive = plain.adapt(adaptive, regret, mask, stopped)
    return adaptive.replace(beta=jnp.where(adaptive.enabled, beta, adaptive.beta), account=account)

  return plain._replace(adapt=adapt)

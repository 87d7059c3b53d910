"""Successive halving in brackets, of which some begin to end runs later."""

from typing import Any

from espo_jax.registry import source
from espo_jax.sweep.ends.pruners import pruned_by
from espo_jax.sweep.ends.registered import register
from espo_jax.sweep.ends.successive_halving import check_rungs
from espo_jax.sweep.ends.trial import EarlyEnd, Trials


@register('hyperband')
@source("Hyperband, arXiv 1603.06560, by Optuna's pruner", 'eta')
def hyperband(*, least: int = 4, eta: int = 3) -> EarlyEnd:
  """Ends runs as `successive_halving` does within brackets, whose first rung is at update `least * eta^bracket`.

  The bracket of a run is drawn from the seed and the place of the run in the comparison. Hence a run that learns late may have
  a bracket that waits.

  Args:
    least: The update of the first rung of the first bracket [U].
    eta: The factor between rungs, and the number of runs of which one goes on.
  """
  check_rungs(least, eta)

  def make(pruners: Any, trials: Trials) -> Any:
    most = max(least, trials.updates)
    return pruners.HyperbandPruner(min_resource=least, max_resource=most, reduction_factor=eta)

  return pruned_by('hyperband', make)

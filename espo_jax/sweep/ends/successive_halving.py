"""Ends a run that is not among the best at a rung."""

from espo_jax.registry import source
from espo_jax.sweep.ends.pruners import pruned_by
from espo_jax.sweep.ends.registered import register
from espo_jax.sweep.ends.trial import EarlyEnd


@register('successive_halving')
@source("successive halving, arXiv 1502.07943, in ASHA's asynchronous form, arXiv 1810.05934, by Optuna's pruner")
def successive_halving(*, least: int = 4, eta: int = 3) -> EarlyEnd:
  """Ends a run that is not in the best `1 / eta` of those that have reached a rung; rungs are updates `least * eta^k`.

  Runs follow each other, so a run is compared with the earlier ones alone. The best of fewer than `2 * eta` runs goes on.

  Args:
    least: The update of the first rung [U].
    eta: The factor between rungs, and the number of runs of which one goes on [U].
  """
  check_rungs(least, eta)
  return pruned_by(
    'successive_halving', lambda pruners, _: pruners.SuccessiveHalvingPruner(min_resource=least, reduction_factor=eta)
  )


def check_rungs(least: int, eta: int) -> None:
  """Raises ValueError if no rungs follow from these options."""
  if least < 1 or eta < 2:
    raise ValueError(f'least = {least}, eta = {eta}: no rungs; fix: least = 1 or more, eta = 2 or more')

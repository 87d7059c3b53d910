"""Ends a run that is below the median of the earlier ones."""

from espo_jax.registry import source
from espo_jax.sweep.ends.pruners import pruned_by
from espo_jax.sweep.ends.registered import register
from espo_jax.sweep.ends.trial import EarlyEnd


@register('median')
@source("the median rule of Google Vizier, KDD 2017, by Optuna's MedianPruner")
def median(*, first: int = 5, runs: int = 4) -> EarlyEnd:
  """Ends a run whose best accuracy so far is below the median of the whole earlier runs at the same update.

  Args:
    first: The first update at which a run may be ended [U].
    runs: The whole earlier runs without which no run is ended [U].
  """
  if first < 1 or runs < 1:
    raise ValueError(f'first = {first}, runs = {runs}: out of range; fix: numbers of at least 1')
  return pruned_by(
    'median', lambda pruners, trials: pruners.MedianPruner(n_startup_trials=runs, n_warmup_steps=first, n_min_trials=1)
  )

"""Early ends of a comparison's runs: which run is not worth going on with.

An early end reads the training accuracy of a run after each update, beside the finished curves of the earlier arms of the same
seed. It is a function of these curves and the seed, so it decides alike after an interruption. The baseline's runs are never
ended, and neither is the best run so far.

| early end | ends a run that | needs |
|---|---|---|
| `perf_predict` | is predicted to end below the best run, by a regression on finished runs | some finished runs |
| `lc_powerlaw` | has settled at a level below the best run, by a power law fitted to its own curve | one finished run |
| `median` | is below the median of the earlier runs | Optuna |
| `successive_halving` | is not in the best part of those that reached a rung | Optuna |
| `hyperband` | is not in the best part of its bracket at a rung | Optuna |

A run that is ended has no result: its row in the table is over the seeds in which it came to its end.
"""

from espo_jax.registry import import_files
from espo_jax.sweep.ends.hyperband import hyperband
from espo_jax.sweep.ends.lc_powerlaw import PowerLaw, lc_powerlaw, power_law
from espo_jax.sweep.ends.median import median
from espo_jax.sweep.ends.perf_predict import Regression, perf_predict, probability_below, regression
from espo_jax.sweep.ends.registered import REGISTRY, register
from espo_jax.sweep.ends.successive_halving import successive_halving
from espo_jax.sweep.ends.trial import EarlyEnd, Judge, Trial, Trials, sparing_the_best

import_files(__name__, __path__)

__all__ = [
  'REGISTRY',
  'EarlyEnd',
  'Judge',
  'PowerLaw',
  'Regression',
  'Trial',
  'Trials',
  'hyperband',
  'lc_powerlaw',
  'median',
  'perf_predict',
  'power_law',
  'probability_below',
  'register',
  'regression',
  'sparing_the_best',
  'successive_halving',
]

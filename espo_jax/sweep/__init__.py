"""Runs comparisons over seeds: the arms of a seed start from shared stages and run in sequence; one table has the results.

A comparison consists of runs of `espo_jax.train` and nothing else. What the arms of a seed share is a run with `stages` of
its own. The arms name its folder in `start_from` and leave those stages out, so that each arm equals the arm of one joint run
to the last bit (`tests/test_sweep.py`) and can be run alone.

"To the last bit" holds on one processor with one number of threads, for a comparison and for whatever resumes after an
interruption, because XLA adds up in another order elsewhere. Every result records both.

A sweep that names one of the `ends` ends runs that are not worth going on with. One with a `Search` proposes arms of its own,
each from the results of those before.
"""

from espo_jax.sweep.columns import (
  ACCURACY,
  DECODED,
  FALSE_POSITIVES,
  FINAL_ENTROPY,
  GREEDY,
  LONG,
  MIDDLE,
  RESPONSE_TOKENS,
  SECONDS,
  SHORT,
  TRAINING_GFLOP,
  TRAINING_TOKENS,
  Column,
  Counts,
  Outcome,
  accuracy_at,
  area_to,
  share_of_tokens,
)
from espo_jax.sweep.growing import Growing
from espo_jax.sweep.plan import Run, configured, plan
from espo_jax.sweep.results import collect, compare, format_comparison
from espo_jax.sweep.running import FINAL, Status, run_all
from espo_jax.sweep.searches.space import Between, OneOf, Search
from espo_jax.sweep.spec import Sweep, load_sweep

__all__ = [
  'ACCURACY',
  'DECODED',
  'FALSE_POSITIVES',
  'FINAL',
  'FINAL_ENTROPY',
  'GREEDY',
  'LONG',
  'MIDDLE',
  'RESPONSE_TOKENS',
  'SECONDS',
  'SHORT',
  'TRAINING_GFLOP',
  'TRAINING_TOKENS',
  'Between',
  'Column',
  'Counts',
  'Growing',
  'OneOf',
  'Outcome',
  'Run',
  'Search',
  'Status',
  'Sweep',
  'accuracy_at',
  'area_to',
  'collect',
  'compare',
  'configured',
  'format_comparison',
  'load_sweep',
  'plan',
  'run_all',
  'share_of_tokens',
]

"""Runs comparisons over seeds: the arms of a seed start from shared stages and run in sequence; one table has the results."""

from espo_jax.sweep.columns import (
  ACCURACY,
  FALSE_POSITIVES,
  FINAL_ENTROPY,
  GREEDY,
  RESPONSE_TOKENS,
  SECONDS,
  TRAINING_GFLOP,
  TRAINING_TOKENS,
  Column,
  Counts,
  Outcome,
)
from espo_jax.sweep.plan import Run, configured, plan
from espo_jax.sweep.results import collect, compare, format_comparison
from espo_jax.sweep.running import FINAL, Status, run_all
from espo_jax.sweep.spec import Sweep, load_sweep

__all__ = [
  'ACCURACY',
  'FALSE_POSITIVES',
  'FINAL',
  'FINAL_ENTROPY',
  'GREEDY',
  'RESPONSE_TOKENS',
  'SECONDS',
  'TRAINING_GFLOP',
  'TRAINING_TOKENS',
  'Column',
  'Counts',
  'Outcome',
  'Run',
  'Status',
  'Sweep',
  'collect',
  'compare',
  'configured',
  'format_comparison',
  'load_sweep',
  'plan',
  'run_all',
]

"""Ends runs early while they train: what is known is read from the disk, and an early end decides after each update."""

import math
import pathlib

import numpy as np

from espo_jax.configs import flatten
from espo_jax.monitor import policy_accuracy, read_metrics
from espo_jax.stages.rl import Watch
from espo_jax.sweep.ends import REGISTRY, EarlyEnd, Trial, Trials, sparing_the_best
from espo_jax.sweep.making import make
from espo_jax.sweep.plan import Run
from espo_jax.sweep.spec import Sweep


class EndedEarly(Exception):
  """An early end ended the run."""


def make_end(sweep: Sweep) -> EarlyEnd:
  """Makes the early end that a sweep names.

  Raises:
    ConfigError: The early end does not exist, does not take the options, or needs Optuna, which is not installed.
  """
  return sparing_the_best(make(REGISTRY, sweep.early_end, sweep.early_end_options, 'early_end_options'))


def read_trial(run: Run, *, whole: bool) -> Trial:
  """Reads the curve of a run in its folder. Updates whose accuracy is unknown are left out.

  Args:
    run: A run that serves an arm.
    whole: Whether the run came to its own end.
  """
  rows = [(int(row['step']), policy_accuracy(row)) for row in read_metrics(curve_folder(run))]
  known = [(update, accuracy) for update, accuracy in rows if math.isfinite(accuracy)]
  updates, accuracy = zip(*known, strict=True) if known else ((), ())
  return Trial(flatten(run.config), np.array(updates, int), np.array(accuracy, float), whole)


def curve_folder(run: Run) -> pathlib.Path:
  """Returns the folder of the metrics of a run that trains one arm."""
  return run.workdir / 'arms' / run.config.stop.name


def watching(end: EarlyEnd, trials: Trials, run: Run) -> Watch:
  """Returns a function that tells an early end each update of a run, and ends the run if the early end decides so.

  Args:
    end: The early end.
    trials: What was known before the run began.
    run: The run. Its updates before an interruption are told first.
  """
  judge = end(trials)
  told = False

  def watch(arm: str, update: int, accuracy: float) -> None:
    nonlocal told
    if not told:
      before = read_trial(run, whole=False)
      for earlier, value in zip(before.updates.tolist(), before.accuracy.tolist(), strict=True):
        if earlier < update:
          judge(earlier, value)
      told = True
    if math.isfinite(accuracy) and (reason := judge(update, accuracy)):
      raise EndedEarly(f'update {update}: training accuracy {accuracy:.3f}; {reason}')

  return watch

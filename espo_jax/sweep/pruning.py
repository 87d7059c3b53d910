"""Ends runs early with Optuna's pruners. Optuna is an optional extra, which is imported only if a sweep names a pruner."""

import pathlib
from collections.abc import Sequence
from typing import Any

from espo_jax.configs import ConfigError
from espo_jax.monitor import policy_accuracy, read_metrics
from espo_jax.stages.rl import Watch
from espo_jax.sweep.spec import Sweep


class Pruned(Exception):
  """A pruner ended the run."""


def make_pruner(sweep: Sweep) -> Any:
  """Makes the pruner that a sweep names.

  Raises:
    ConfigError: Optuna is not installed, the pruner does not exist, or it does not take the options.
  """
  try:
    import optuna
  except ImportError as error:
    raise ConfigError([f"pruner = {sweep.pruner!r}: Optuna is not installed; fix: pip install 'espo_jax[sweep]'"]) from error
  kind = getattr(optuna.pruners, sweep.pruner, None)
  if not (isinstance(kind, type) and issubclass(kind, optuna.pruners.BasePruner)):
    known = ', '.join(name for name in optuna.pruners.__all__ if name != 'BasePruner')
    raise ConfigError([f'pruner = {sweep.pruner!r}: no such pruner; known: {known}'])
  try:
    return kind(**sweep.pruner_options)
  except (TypeError, ValueError) as error:
    raise ConfigError([f'pruner_options = {dict(sweep.pruner_options)}: {error}']) from error


def watching(pruner: Any, earlier: Sequence[tuple[pathlib.Path, bool]], mine: pathlib.Path) -> Watch:
  """Returns a function that reports a run's updates to a pruner, and ends the run if the pruner decides so.

  The study is rebuilt from the recorded metrics, so that a resumed sweep decides like an uninterrupted one.

  Args:
    pruner: A pruner of Optuna.
    earlier: The metrics folders of the same seed's earlier arms, each with whether the arm was pruned.
    mine: The metrics folder of this run. Metrics recorded before an interruption are reported first.
  """
  import optuna

  optuna.logging.set_verbosity(optuna.logging.WARNING)
  study = optuna.create_study(direction='maximize', pruner=pruner)
  for directory, pruned in earlier:
    trial = study.ask()
    last = _report(trial, directory)
    study.tell(trial, last, optuna.trial.TrialState.PRUNED if pruned else optuna.trial.TrialState.COMPLETE)
  trial = study.ask()
  told = False

  def watch(arm: str, update: int, accuracy: float) -> None:
    nonlocal told
    if not told:
      _report(trial, mine, before=update)
      told = True
    trial.report(accuracy, update)
    if trial.should_prune():
      raise Pruned(f'update {update}: training accuracy {accuracy:.3f}')

  return watch


def _report(trial: Any, directory: pathlib.Path, before: float = float('inf')) -> float:
  rows = [row for row in read_metrics(directory) if row['step'] < before]
  for row in rows:
    trial.report(policy_accuracy(row), int(row['step']))
    trial.should_prune()  # some pruners change state with each call
  return policy_accuracy(rows[-1]) if rows else 0.0

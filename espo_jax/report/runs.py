"""Reads the folder of a run of espo_jax.train, which may still be going on."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from espo_jax import monitor
from espo_jax.configs import flatten
from espo_jax.parallel.storage import DamagedFile, read_json

_MARK, _HISTORY = 'environment.json', 'changes.json'


class ReportError(ValueError):
  """A folder that no page can be made of, or a page that cannot be written. The message names the path and the fix."""


class Arm(NamedTuple):
  """An arm of a run.

  Attributes:
    name: The name of its folder, which is that of its stop rule.
    label: The name that people read.
    folder: The arm's folder.
    metrics: The metrics of its updates, one entry per update.
    results: The costs so far, and the results on the test split if the arm is finished.
  """

  name: str
  label: str
  folder: Path
  metrics: list[dict[str, Any]]
  results: Mapping[str, Any]


class Run(NamedTuple):
  """A run.

  Attributes:
    name: The shortest end of the folder's path that tells it from the other runs of the page.
    folder: The folder.
    config: The config, by dotted field.
    environment: The code, the libraries and the machine.
    warm_start: The results of the warm start on the test split; None before its evaluation.
    arms: The arms that have begun, in the order of the run's table.
    finished: Whether all stages are done.
    history: The changes with which it went on, as `stages.changes` keeps them.
  """

  name: str
  folder: Path
  config: Mapping[str, Any]
  environment: Mapping[str, Any]
  warm_start: Mapping[str, Any] | None
  arms: tuple[Arm, ...]
  finished: bool
  history: Sequence[Mapping[str, Any]] = ()


def read_runs(folders: Sequence[Path], flag: str = '--workdir') -> tuple[Run, ...]:
  """Reads runs.

  Args:
    folders: The folders of the runs, or folders that contain such folders at any depth.
    flag: The flag that named them, for error messages.

  Raises:
    ReportError: A folder holds no run, or a file of a run is damaged.
  """
  found: list[Path] = []
  for folder in folders:
    if not folder.is_dir():
      raise ReportError(f'{flag}={folder}: no such folder; fix: the folder of a run of espo_jax.train')
    runs = [folder] if _is_run(folder) else sorted(path.parent for path in folder.rglob(_MARK) if _is_run(path.parent))
    if not runs:
      raise ReportError(f'{flag}={folder}: holds no config.json beside an {_MARK}; fix: the folder of a run of espo_jax.train')
    found += [run for run in runs if run not in found]
  return tuple(_run(folder, name) for folder, name in zip(found, _names(found), strict=True))


def _run(folder: Path, name: str) -> Run:
  config = flatten(_json(folder / 'config.json'))
  last = folder / 'summary.json' if 'rl' in config.get('stages', ('rl',)) else folder / config['stages'][-1] / 'evaluation.json'
  order = [*config.get('baselines', ()), config.get('stop.name')]
  begun = sorted(
    (path.parent for path in folder.glob('arms/*/metrics.jsonl')), key=lambda path: (_place(path.name, order), path)
  )
  return Run(
    name=name,
    folder=folder,
    config=config,
    environment=_json(folder / _MARK),
    warm_start=_evaluation(folder / 'warm_start'),
    arms=tuple(_arm(path) for path in begun),
    finished=last.is_file(),
    history=_json(folder / _HISTORY, list) if (folder / _HISTORY).is_file() else (),
  )


def _arm(folder: Path) -> Arm:
  try:
    metrics = monitor.read_metrics(folder)
  except DamagedFile as error:
    raise ReportError(f'{error}, or leave out the run') from error
  return Arm(folder.name, monitor.arm_label(folder.name), folder, metrics, monitor.costs(metrics) | (_evaluation(folder) or {}))


def _evaluation(folder: Path) -> dict[str, Any] | None:
  """Returns the results on the test split of a stage or an arm; None before its evaluation."""
  path = folder / 'evaluation.json'
  try:
    found = _json(path)
  except FileNotFoundError:
    return None
  try:
    return monitor.evaluation_results(found)
  except (KeyError, TypeError, ValueError) as error:
    raise ReportError(f'{path}: not an evaluation ({error!r}); fix: remove the file, or leave out the run') from error


def _is_run(folder: Path) -> bool:
  """Returns whether a folder is that of a run. A model for export has a config too, but no environment."""
  return (folder / 'config.json').is_file() and (folder / _MARK).is_file()


def _place(arm: str, order: Sequence[Any]) -> int:
  return order.index(arm) if arm in order else len(order)


def _json(path: Path, kind: type = dict) -> Any:
  try:
    return read_json(path, kind)
  except DamagedFile as error:
    raise ReportError(f'{error}, or leave out the run') from error


def _names(folders: Sequence[Path]) -> list[str]:
  """Returns the shortest ends of the paths that differ from each other."""
  parts = [path.absolute().parts for path in folders]
  count = 1
  while count < max(map(len, parts), default=1) and len({its[-count:] for its in parts}) < len(parts):
    count += 1
  return ['/'.join(its[-count:]) for its in parts]

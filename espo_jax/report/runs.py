"""Reads the folder of a run of espo_jax.train, which may still be going on."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from espo_jax import monitor
from espo_jax.configs import flatten


class ReportError(ValueError):
  """A folder that no page can be made of. The message names the folder and the fix."""


class Arm(NamedTuple):
  """An arm of a run.

  Attributes:
    name: The name of its folder, which is that of its stop rule.
    label: The name that people read.
    folder: Its folder.
    metrics: The metrics of its updates, one entry per update.
    results: Its costs so far, and its results on the test split if it is finished.
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
  """

  name: str
  folder: Path
  config: Mapping[str, Any]
  environment: Mapping[str, Any]
  warm_start: Mapping[str, Any] | None
  arms: tuple[Arm, ...]
  finished: bool


def read_runs(folders: Sequence[Path]) -> tuple[Run, ...]:
  """Reads runs.

  Args:
    folders: The folders of the runs, or folders that contain such folders at any depth.

  Raises:
    ReportError: A folder holds no run, or a file of a run is damaged.
  """
  found: list[Path] = []
  for folder in folders:
    if not folder.is_dir():
      raise ReportError(f'--workdir={folder}: no such folder; fix: the folder of a run of espo_jax.train')
    runs = [folder] if (folder / 'config.json').is_file() else sorted(path.parent for path in folder.rglob('config.json'))
    if not runs:
      raise ReportError(f'--workdir={folder}: holds no config.json; fix: the folder of a run of espo_jax.train')
    found += [run for run in runs if run not in found]
  return tuple(_run(folder, name) for folder, name in zip(found, _names(found), strict=True))


def _run(folder: Path, name: str) -> Run:
  config = flatten(_json(folder / 'config.json', {}))
  summary = _json(folder / 'summary.json', None)
  evaluation = _json(folder / 'warm_start' / 'evaluation.json', None)
  order = [*config.get('baselines', ()), config.get('stop.name')]
  begun = sorted(
    (path.parent for path in folder.glob('arms/*/metrics.jsonl')), key=lambda path: (_place(path.name, order), path)
  )
  return Run(
    name=name,
    folder=folder,
    config=config,
    environment=_json(folder / 'environment.json', {}),
    warm_start=None if evaluation is None else monitor.evaluation_results(evaluation),
    arms=tuple(_arm(path) for path in begun),
    finished=summary is not None,
  )


def _arm(folder: Path) -> Arm:
  try:
    metrics = monitor.read_metrics(folder)
  except ValueError as error:
    raise ReportError(f'{error}; fix: remove this line, or the folder from --workdir') from error
  evaluation = _json(folder / 'evaluation.json', None)
  results = monitor.costs(metrics) | ({} if evaluation is None else monitor.evaluation_results(evaluation))
  return Arm(folder.name, monitor.arm_label(folder.name), folder, metrics, results)


def _place(arm: str, order: Sequence[Any]) -> int:
  return order.index(arm) if arm in order else len(order)


def _json(path: Path, default: Any) -> Any:
  if not path.is_file():
    return default
  try:
    return json.loads(path.read_text())
  except ValueError as error:
    raise ReportError(f'{path}: not JSON ({error}); fix: remove the file, or the run from --workdir') from error


def _names(folders: Sequence[Path]) -> list[str]:
  """Returns the shortest ends of the paths that differ from each other."""
  parts = [path.absolute().parts for path in folders]
  count = 1
  while count < max(map(len, parts), default=1) and len({its[-count:] for its in parts}) < len(parts):
    count += 1
  return ['/'.join(its[-count:]) for its in parts]

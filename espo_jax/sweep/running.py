"""Running what a comparison lacks: one run after another, each to its end, none twice."""

import json
import os
import pathlib
import time
from collections.abc import Sequence
from typing import NamedTuple

import jax
from absl import logging

from espo_jax.monitor import atomic_write_text, to_json
from espo_jax.stages.loop import Interrupted, TrainingFailed
from espo_jax.sweep.plan import Run
from espo_jax.sweep.pruning import Pruned, make_pruner, watching
from espo_jax.sweep.spec import Sweep
from espo_jax.train import same_config, train

FINAL = ('done', 'failed', 'pruned')


class Status(NamedTuple):
  """How far a run is.

  Attributes:
    state: 'waiting', 'interrupted', or one of `FINAL`.
    seconds: Wall time so far, compilation and evaluation included.
    cores: That the process could use when the run was last under way.
    message: Why it failed or was pruned.
  """

  state: str
  seconds: float = 0.0
  cores: int = 0
  message: str = ''

  @classmethod
  def of(cls, run: Run) -> 'Status':
    """As recorded in the run's folder."""
    path = run.workdir / 'sweep.json'
    return cls(**json.loads(path.read_text())) if path.exists() else cls('waiting')


def run_all(sweep: Sweep, runs: Sequence[Run]) -> None:
  """Run what is not yet done, and say so of what is.

  Raises:
    ConfigError: A run's folder is that of another config; the pruner cannot be had.
    Interrupted: A signal asked for it; the same call goes on.
    TrainingFailed: What a seed shares could not be trained. An arm that fails is a result.
  """
  pruner = make_pruner(sweep) if sweep.pruner else None
  for run in runs:
    same_config(run.config, run.workdir / 'config.json')
    if (found := Status.of(run)).state in FINAL:
      print(f'seed {run.seed}, {run.name}: {found.state}, skipped')
      continue
    print(f'seed {run.seed}, {run.name}:\n  {run.command}', flush=True)
    watch = None
    if pruner is not None and run.arms and sweep.baseline not in run.arms:
      watch = watching(pruner, _earlier(runs, run), _metrics(run))
    status, began = Status('interrupted'), time.perf_counter()
    try:
      train(run.config, run.workdir, watch)
      status = Status('done')
    except Pruned as pruned:
      status = Status('pruned', message=str(pruned))
    except TrainingFailed as failed:
      if not run.arms:
        raise
      logging.warning('%s', failed)
      status = Status('failed', message=str(failed))
    except Interrupted:
      raise
    finally:
      seconds = found.seconds + time.perf_counter() - began
      status = status._replace(seconds=seconds, cores=_cores())
      atomic_write_text(run.workdir / 'sweep.json', to_json(status._asdict()) + '\n')
    jax.clear_caches()


def _earlier(runs: Sequence[Run], run: Run) -> list[tuple[pathlib.Path, bool]]:
  """The metrics of the arms that came before the run under its seed, and whether they were pruned."""
  before = [other for other in runs[: runs.index(run)] if other.seed == run.seed and other.arms]
  return [(_metrics(other), Status.of(other).state == 'pruned') for other in before if Status.of(other).state != 'failed']


def _metrics(run: Run) -> pathlib.Path:
  return run.workdir / 'arms' / run.config.stop.name


def _cores() -> int:
  return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1

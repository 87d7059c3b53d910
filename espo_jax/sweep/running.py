"""Runs the missing runs of a comparison one after another. A run that has ended is not repeated."""

import os
import pathlib
import time
from collections.abc import Sequence
from typing import NamedTuple

import jax
from absl import logging

from espo_jax.monitor import atomic_write_text, to_json
from espo_jax.parallel.storage import read_json
from espo_jax.stages.changes import changes_of
from espo_jax.stages.loop import Interrupted, TrainingFailed
from espo_jax.sweep.plan import Run
from espo_jax.sweep.pruning import Pruned, make_pruner, watching
from espo_jax.sweep.spec import Sweep
from espo_jax.train import train

FINAL = ('done', 'failed', 'pruned')


class Status(NamedTuple):
  """The state of a run.

  Attributes:
    state: 'waiting', 'interrupted', or one of `FINAL`.
    seconds: The wall time so far, compilation and evaluation included.
    cores: The number of cores that the process could use in the run's last session.
    message: The reason why the run failed or was pruned.
  """

  state: str
  seconds: float = 0.0
  cores: int = 0
  message: str = ''

  @classmethod
  def of(cls, run: Run) -> 'Status':
    """Reads the status in the run's folder."""
    path = run.workdir / 'sweep.json'
    return cls(**read_json(path)) if path.exists() else cls('waiting')


def run_all(sweep: Sweep, runs: Sequence[Run]) -> None:
  """Run the runs that have not ended, and print which ones are skipped.

  Raises:
    ConfigError: A run's folder belongs to another config, or the pruner cannot be made.
    Interrupted: A signal interrupted a run. The same call resumes it.
    TrainingFailed: The stages that the arms of a seed share could not be trained. An arm that fails is a result, not an error.
  """
  pruner = make_pruner(sweep) if sweep.pruner else None
  for run in runs:
    changes_of(run.config, run.workdir)
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
  """Returns the metrics folders of the earlier arms of the run's seed, each with whether the arm was pruned."""
  before = [other for other in runs[: runs.index(run)] if other.seed == run.seed and other.arms]
  return [(_metrics(other), Status.of(other).state == 'pruned') for other in before if Status.of(other).state != 'failed']


def _metrics(run: Run) -> pathlib.Path:
  return run.workdir / 'arms' / run.config.stop.name


def _cores() -> int:
  return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1

"""Runs the missing runs of a comparison one after another. A run that has ended is not repeated."""

import os
import time
from collections.abc import Sequence
from typing import NamedTuple

import jax
from absl import logging

from espo_jax.compile_check.plan import DoesNotFit
from espo_jax.configs import flatten
from espo_jax.monitor import atomic_write_text, to_json
from espo_jax.parallel.storage import read_json
from espo_jax.stages.changes import changes_of
from espo_jax.stages.loop import Interrupted, TrainingFailed
from espo_jax.sweep.ends import Trials
from espo_jax.sweep.plan import Run
from espo_jax.sweep.spec import Sweep
from espo_jax.sweep.watching import EndedEarly, make_end, read_trial, watching
from espo_jax.train import train

ENDED, FAILED = 'ended early', 'failed'
FINAL = ('done', FAILED, ENDED)


class Status(NamedTuple):
  """The state of a run.

  Attributes:
    state: 'waiting', 'interrupted', or one of `FINAL`.
    seconds: The wall time so far, compilation and evaluation included.
    cores: The number of cores that the process could use in the run's last session.
    message: The reason why the run failed or was ended early.
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


def run_all(sweep: Sweep, runs: Sequence[Run], beside: Sequence[Run] = ()) -> None:
  """Run the runs that have not ended, and print which ones are skipped.

  Args:
    sweep: The comparison.
    runs: The runs, in their order.
    beside: The runs of the arms before these, where a search has proposed these. An early end may know them. An arm that does
      not fit the memory then fails, as one that cannot be trained does.

  Raises:
    ConfigError: A run's folder belongs to another config, or the early end cannot be made.
    DoesNotFit: A run that no search has proposed does not fit the memory.
    Interrupted: A signal interrupted a run. The same call resumes it.
    TrainingFailed: The stages that the arms of a seed share could not be trained. An arm that fails is a result, not an error.
  """
  end = make_end(sweep) if sweep.early_end else None
  for run in runs:
    changes_of(run.config, run.workdir)
    if (found := Status.of(run)).state in FINAL:
      print(f'seed {run.seed}, {run.name}: {found.state}, skipped')
      continue
    print(f'seed {run.seed}, {run.name}:\n  {run.command}', flush=True)
    watch = None
    if end is not None and run.arms and sweep.baseline not in run.arms:
      watch = watching(end, _known([*beside, *runs], run), run)
    status, began = Status('interrupted'), time.perf_counter()
    try:
      train(run.config, run.workdir, watch)
      status = Status('done')
    except EndedEarly as ended:
      status = Status(ENDED, message=str(ended))
    except (TrainingFailed, DoesNotFit) as failed:
      if not run.arms or (isinstance(failed, DoesNotFit) and not beside):
        raise
      logging.warning('%s', failed)
      status = Status(FAILED, message=str(failed))
    except Interrupted:
      raise
    finally:
      seconds = found.seconds + time.perf_counter() - began
      status = status._replace(seconds=seconds, cores=_cores())
      atomic_write_text(run.workdir / 'sweep.json', to_json(status._asdict()) + '\n')
    jax.clear_caches()


def _known(runs: Sequence[Run], run: Run) -> Trials:
  """Returns what an early end may know before a run begins. A run that failed is not counted."""
  before = [other for other in runs[: runs.index(run)] if other.seed == run.seed and other.arms]
  states = {other: Status.of(other).state for other in before}
  earlier = [read_trial(other, whole=state == 'done') for other, state in states.items() if state != FAILED]
  return Trials(run.seed, run.config.learner.updates, flatten(run.config), earlier)


def _cores() -> int:
  return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1

"""One stage of training: a loop of steps. A run killed at any point resumes with bit-identical results.

A stage that resumes cuts `metrics.jsonl` back to the step of its checkpoint.
"""

import contextlib
import dataclasses
import os
import pathlib
import shlex
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np

from espo_jax import parallel
from espo_jax.learner import Checkpoints, restore
from espo_jax.monitor import MetricWriter, Progress, policy_accuracy
from espo_jax.monitor.resources import process_metrics
from espo_jax.stages.changes import stage_origin

State = Any
Step = Callable[[State, int], tuple[State, dict[str, Any]]]

INTERRUPTED = 143  # exit status of a command that a signal ended: it tells the caller that the work is not finished


class TrainingFailed(RuntimeError):
  """Too many consecutive steps were non-finite. The newest checkpoint is kept."""


class Interrupted(Exception):
  """A signal asked the run to stop. The message says what is saved."""


def going_on(stopped: Interrupted, module: str, arguments: Sequence[str]) -> str:
  """Returns the message after a signal ended a command. It says what is saved, and which command resumes the work."""
  return f'{stopped}. This goes on from there:\n  python -m {module} {shlex.join(arguments)}'


class Interruption:
  """A flag: `requested` is true once a signal has asked the run to stop."""

  requested = False


UNASKED = Interruption()  # for callers that signals do not interrupt


@contextlib.contextmanager
def interruption(kept: str, lost: str) -> Iterator[Interruption]:
  """Turns the first SIGTERM or SIGINT into a request to stop, with a note on stderr. A second signal ends the process at once.

  Args:
    kept: The work that is still finished, such as `the step at hand is finished and saved`.
    lost: The work that a second signal loses, such as `the steps since the newest checkpoint`.
  """
  flag = Interruption()
  before = {s: signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)}

  def handle(number: int, _: object) -> None:
    flag.requested = True
    restore_handlers()
    name = signal.Signals(number).name
    told = f'{name}: {kept}, then the command ends; a second signal ends it at once, and loses {lost}'
    os.write(2, f'\n{told}\n'.encode())  # not print: the signal may have arrived inside a print

  def restore_handlers() -> None:
    for s, handler in before.items():
      signal.signal(s, handler)

  for s in before:
    signal.signal(s, handle)
  try:
    yield flag
  finally:
    restore_handlers()


@dataclasses.dataclass(frozen=True)
class Stage:
  """One stage of training, as `run_stage` runs it.

  Attributes:
    name: The name that the progress bar shows.
    directory: The folder of the stage's checkpoints and metrics.
    first: The number of steps taken before the stage.
    last: The number of the step after which the stage is done.
    step: `(state, step) -> (state, metrics)`, a pure function of both arguments; metrics may be on the device.
    finished: A function from the step's metrics to whether the stage is done before `last`.
    diagnose: A function from each step and its metrics to further metrics, which the first process calls.
    watch: A function that is given each step and its accuracy once its metrics are written. An error of it ends the run.
    reopened: The step at which the stage was done before it was allowed to go on; None if it was not.
    checkpoint_every: The number of steps between checkpoints.
    keep_last: The number of newest checkpoints kept.
    keep_best: The number of checkpoints with the highest training accuracy that are kept as well.
    max_bad_steps: The number of consecutive non-finite optimizer steps that ends the run.
    origin: What tells the stage and its run from others. A checkpoint with another origin is not used.
  """

  name: str
  directory: pathlib.Path
  first: int
  last: int
  step: Step
  checkpoint_every: int
  keep_last: int
  keep_best: int
  max_bad_steps: int
  finished: Callable[[dict[str, float]], bool] = lambda metrics: False
  diagnose: Callable[[int, Mapping[str, float]], Mapping[str, float]] = lambda step, metrics: {}
  watch: Callable[[int, float], None] = lambda step, accuracy: None
  reopened: int | None = None
  origin: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def run_stage(stage: Stage, initial: State, signals: Interruption) -> tuple[State, int]:
  """Runs a stage to its end, from its newest intact checkpoint if it has one.

  Args:
    stage: The stage to run.
    initial: The state to start from. Its buffers are donated; only its shapes and shardings matter when there is a checkpoint.
    signals: The interruption flag, which is read after every step.

  Returns:
    The state after the last step, and the number of that step.

  Raises:
    TrainingFailed: `max_bad_steps` consecutive steps were non-finite.
    Interrupted: A signal asked the run to stop; the state is saved.
    CheckpointError: There are checkpoints but none is intact, or they belong to another model.
  """
  state, start = initial, stage.first
  if (found := restore(stage.directory / 'checkpoints', initial, stage.origin)) is not None:
    jax.tree.map(lambda x: x.delete() if isinstance(x, jax.Array) else None, initial)  # the caller may still refer to them
    state, start = found.state, found.step
    if found.done and (start != stage.reopened or start >= stage.last):
      return state, start
  with (
    Checkpoints(
      stage.directory / 'checkpoints', keep_last=stage.keep_last, keep_best=stage.keep_best, origin=stage.origin
    ) as checkpoints,
    contextlib.ExitStack() as shown,
    jax.transfer_guard('disallow'),
  ):
    if parallel.is_first():
      writer = shown.enter_context(MetricWriter(stage.directory, start))
      progress = shown.enter_context(Progress(stage.name, stage.last - stage.first, start - stage.first))
    for step in range(start + 1, stage.last + 1):
      state, metrics = stage.step(state, step)
      metrics = {name: float(value) for name, value in jax.device_get(metrics).items()}
      if parallel.is_first():
        writer.write(step, {**metrics, **stage.diagnose(step, metrics), **process_metrics()})
        progress.update(step - stage.first, metrics)
      done = step == stage.last or stage.finished(metrics)
      if not done:  # a run that is over cannot be ended
        stage.watch(step, policy_accuracy(metrics))
      if metrics['bad_steps'] >= stage.max_bad_steps:
        raise TrainingFailed(
          f'{stage.name}, step {step}: {stage.max_bad_steps} non-finite losses or gradients in a row '
          f'(learner.max_bad_steps). The parameters are those before them; the newest checkpoint is under '
          f'{stage.directory}. Lower the learning rate, or look at the metrics just before.'
        )
      interrupted = parallel.any_process(signals.requested)  # all processes save the same step
      if done or interrupted or step % stage.checkpoint_every == 0:
        checkpoints.save(step, state, done=done, accuracy=_finite_or_none(policy_accuracy(metrics)))
      if done:
        return state, step
      if interrupted:
        raise Interrupted(f'{stage.name}: saved at step {step} of {stage.last}, under {stage.directory}')
  raise AssertionError(f'{stage.name} has no step to run: first = {stage.first}, last = {stage.last}')


def _finite_or_none(value: float) -> float | None:
  return value if np.isfinite(value) else None


def make_stage(config: ml_collections.ConfigDict, name: str, directory: pathlib.Path, **kwargs: Any) -> Stage:
  """Returns a stage with the checkpoint options of a config. It begins at step 0 unless `first` is given."""
  return Stage(
    name=name,
    directory=directory,
    checkpoint_every=config.checkpoint.every,
    keep_last=config.checkpoint.keep_last,
    keep_best=config.checkpoint.keep_best,
    max_bad_steps=config.learner.max_bad_steps,
    origin=stage_origin(config, directory.name),
    **{'first': 0} | kwargs,
  )


def copy_tree(tree: Any) -> Any:
  """Copies the arrays of a tree. A stage donates the buffers of its state, and the original arrays are used again."""
  return jax.tree.map(lambda x: x.copy(), tree)

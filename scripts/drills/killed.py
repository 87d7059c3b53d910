"""SIGKILL at moments of a whole run, after each of which the same command goes on.

All is well if the end equals the end of an undisturbed run bit for bit: parameters, optimizer states, evaluations, examples,
recorded rollouts, and all metrics except seconds and those of the process. One run is killed several times on its way. Each
kill is a case, which holds if that run ends well. The moments are spread evenly over the phases. Some are in the write of a
checkpoint: the process is killed once the temporary folder is there.
"""

import collections
import contextlib
import json
import pathlib
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from drills.jobs import PATIENCE, Job
from drills.marked import SENT, Signal, timeline, written_since
from drills.record import Case
from drills.runs import difference

AIM = 'every run ends bit for bit as the undisturbed one'
COUNT = 40

FLAGS = (
  '--config=experiments/early_exits.py:smoke',  # has every stage
  '--config.stop.name=espo',
  '--config.calibration.levels=()',
  '--config.learner.updates=6',
  '--config.eval.every=3',
  '--config.rollout.record=2',
  '--nocheck_memory',
)
PHASES = ('start', 'restore', 'warm start', 'calibration', 'critic warm-up', 'rollout', 'reward', 'score', 'update', 'metrics')
PHASES += ('checkpoint', 'evaluation', 'examples', 'report')
WRITE = 0.05  # seconds after the temporary folder of a checkpoint appears, in which a process is killed
A_RUN = 8  # kills of one run
LONGEST = 3.0  # seconds of a phase in which a process is killed
LEFT_ALONE = 60.0  # seconds that the other process of a job has to end in


class Moment(NamedTuple):
  """A kill.

  Attributes:
    time: The seconds from the start of the undisturbed run to the moment, by which the kills of a run are ordered.
    phase: The phase that it is meant for.
    due: The signal.
    processes: The processes that get it.
  """

  time: float
  phase: str
  due: Signal
  processes: tuple[int, ...]


def run(
  folder: pathlib.Path,
  count: int,
  seed: int,
  figures: dict[str, Any],
  processes: int = 1,
  flags: Sequence[str] = FLAGS,
  phases: Sequence[str] = PHASES,
) -> Iterator[Case]:
  """Yields a case per kill.

  Args:
    folder: The folder of the runs.
    count: The number of kills.
    seed: The seed of the moments.
    figures: A dict that is filled with figures of all cases.
    processes: The number of processes of a job, 1 or 2.
    flags: The flags of the training.
    phases: The phases that the kills are spread over.
  """
  drill = _Drill(folder, processes, (*flags, f'--config.mesh.data={processes}'))
  yield from drill.cases(count, np.random.default_rng(seed), phases)
  figures['kills by phase'] = ', '.join(f'{phase} {drill.fell[phase]}' for phase in phases)
  figures['of these with a half-written checkpoint'] = drill.half_written
  figures['runs'] = drill.runs
  if processes > 1:
    figures['seconds until the other process ended, at most'] = round(drill.longest)


def phase_of(mark: str) -> str:
  """Returns the phase that a mark begins."""
  parts = mark.split('/')
  stage, last = parts[0], parts[-1]
  if last in ('restore', 'checkpoint', 'evaluation', 'examples', 'report'):
    return last
  return stage if stage in PHASES else last


class _Drill:
  """The runs of a number of processes."""

  def __init__(self, folder: pathlib.Path, processes: int, flags: Sequence[str]):
    self._folder, self._processes, self._flags = folder, processes, flags
    self._reference = folder / 'undisturbed'
    self.fell = collections.Counter[str]()  # kills by the phase in which they fell
    self.half_written, self.runs, self.longest = 0, 0, 0.0

  def cases(self, count: int, rng: np.random.Generator, phases: Sequence[str]) -> Iterator[Case]:
    statuses, marks, output = self._start(self._reference, {})
    if statuses != [0] * self._processes:
      raise RuntimeError(f'the undisturbed run failed: {output}')
    moments = [self._moment(phases[i * len(phases) // count], marks, rng) for i in range(count)]
    rng.shuffle(moments)
    runs = -(-count // A_RUN)
    for number in range(runs):
      pending = sorted(moments[number::runs])
      while pending:
        workdir = self._folder / f'run-{self.runs}'
        self.runs += 1
        yield from self._disturbed(workdir, pending)

  def _disturbed(self, workdir: pathlib.Path, pending: list[Moment]) -> Iterator[Case]:
    """Kills a run at the moments that it comes to, which it removes from `pending`, and lets it end."""
    killed, stage = list[tuple[str, str]](), 'warm start'
    while True:
      due, moment = {}, pending[0] if pending else None
      if moment is not None:
        mark = f'{stage}/restore' if moment.phase == 'restore' else moment.due.mark
        beside = moment.due.beside.replace('WORKDIR', str(workdir))
        due = dict.fromkeys(moment.processes, moment.due._replace(mark=mark, beside=beside))
        stage = mark.partition('/')[0] if '/' in mark else stage
      began = time.time()
      statuses, marks, output = self._start(workdir, due)
      ended = all(status == 0 for status in statuses)
      if moment is None:
        break
      if ended and killed:  # the run had passed the mark, or the phase was over too soon, and another run comes to it
        pending[0] = moment._replace(due=moment.due._replace(delay=moment.due.delay / 2))
        break
      pending.pop(0)
      half = written_since(f'{workdir}/**/checkpoints/*tmp*', began)
      killed.append(self._fallen(moment, statuses, marks, output, half))
      if ended:
        break
    note = (
      difference(workdir, self._reference) if statuses == [0] * self._processes else f'statuses {statuses}: {output[-2000:]}'
    )
    for name, wrong in killed:
      yield Case(name, not (note or wrong), '; '.join(filter(None, (wrong, note))))

  def _fallen(
    self,
    moment: Moment,
    statuses: Sequence[int | None],
    marks: Sequence[Sequence[tuple[float, str]]],
    output: str,
    half: bool,
  ) -> tuple[str, str]:
    """Returns the name of a kill, and what was wrong with it; `half` is whether it left a half-written checkpoint."""
    names = [name for _, name in marks[moment.processes[0]]]
    last = next((name for name in reversed(names) if not name.startswith(SENT)), 'nothing')
    name = f'SIGKILL {moment.due.delay:.3f} s after {moment.due.mark}, in {last}' + ', with a half-written checkpoint' * half
    if self._processes > 1:
      name += f', of {len(moment.processes)} of {self._processes} processes'
    if not any(name.startswith(SENT) for name in names):
      return name, f'the signal was not sent; statuses {statuses}: {output[-2000:]}'
    self.fell[phase_of(last)] += 1
    self.half_written += half
    if None in statuses:
      return name, f'the other process did not end: {output[-2000:]}'
    its = [statuses[i] for i in moment.processes]  # if both get the signal, the death of one may end the other before its own
    return name, '' if -signal.SIGKILL in its and 0 not in its else f'statuses {statuses}: {output[-2000:]}'

  def _moment(self, phase: str, marks: Sequence[Sequence[tuple[float, str]]], rng: np.random.Generator) -> Moment:
    several = [(0,), (1,), (0, 1)] if self._processes == 2 else [(0,)]
    processes = several[rng.integers(len(several))]
    if not any(phase_of(name) == phase for _, name in marks[processes[-1]]):
      processes = (0,)  # the first process alone writes files
    rows = marks[processes[-1]]
    found = [i for i, (_, name) in enumerate(rows) if phase_of(name) == phase]
    place = found[rng.integers(len(found))]
    when, mark = rows[place]
    delay = float(rng.uniform(0, min(rows[place + 1][0] - when, LONGEST)))
    if phase in ('start', 'restore'):
      return Moment(float(rng.uniform(0, rows[-1][0])), phase, Signal(mark, delay), processes)
    if phase == 'checkpoint':
      return Moment(when, phase, Signal(mark, float(rng.uniform(0, WRITE)), beside='WORKDIR/**/checkpoints/*tmp*'), processes)
    return Moment(when, phase, Signal(mark, delay), processes)

  def _start(
    self, workdir: pathlib.Path, due: Mapping[int, Signal]
  ) -> tuple[list[int | None], list[list[tuple[float, str]]], str]:
    """Runs the command, and returns the statuses, the marks of each process and the output."""
    paths = [self._folder / 'marks' / f'{len(list((self._folder / "marks").glob("*")))}-{i}' for i in range(self._processes)]
    paths[0].parent.mkdir(parents=True, exist_ok=True)
    cache = self._folder / 'compiled'
    commands = [
      [
        'scripts/drills/marked.py',
        str(path),
        json.dumps([due[i]] if i in due else []),
        *self._flags,
        f'--workdir={workdir}',
        f'--compilation_cache_dir={cache}',
      ]
      for i, path in enumerate(paths)
    ]
    job = Job(commands, logs=self._folder / 'logs', cache=cache)
    if due and len(due) < self._processes:
      killed = next(iter(due))
      with contextlib.suppress(subprocess.TimeoutExpired):
        job.processes[killed].wait(PATIENCE)
      began = time.monotonic()
      statuses = job.end(LEFT_ALONE)
      self.longest = max(self.longest, time.monotonic() - began)
    else:
      statuses = job.end(PATIENCE)
    return statuses, [timeline(path) for path in paths], job.output()

"""A process that others wait for is stopped or killed: a peer in a job of two processes, or a worker that grades.

| what is stopped or killed | in which phase | all is well if, within a minute |
|---|---|---|
| a peer | start | the other process says that it waits, and for whom: processes of a job may start minutes apart |
| a peer | rollout, grading, update, checkpoint, evaluation | the other process ends and names the cause |
| the workers of a reward that reads text | rollout, grading, evaluation | the run goes on, and it ends well |
| the worker that draws problems of reasoning-gym | drawing, grading, evaluation | the run goes on, and it ends well |
| the workers of computer algebra | their start, between questions, in a question | the grader goes on or names the cause |

A process that is stopped gets SIGSTOP, so that it is alive and silent. A job resumes after each of its cases, so that one run
serves all phases.
"""

import contextlib
import itertools
import json
import os
import pathlib
import re
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

from drills.jobs import PATIENCE, Job
from drills.marked import SENT, WORKERS, Signal, children, sent, timeline
from drills.record import Case
from espo_jax.tasks.grading import Grader

AIM = 'within a minute all goes on, or ends with the cause named'

MINUTE = 60.0
SIGNALS = (signal.SIGSTOP, signal.SIGKILL)
NAMED = re.compile('another task died|another process has ended|waiting for the other processes|unhealthy')
SHORT = (
  '--config.learner.updates=12',
  '--config.gate.force_at=0.1',  # after one update
  '--config.eval.every=1',
  '--config.checkpoint.every=1',
  '--nocheck_memory',
)
CHAIN = (
  '--config=experiments/quickstart.py:smoke',
  '--config.baselines=()',
  '--config.model.num_layers=1',
  *SHORT,
)
TEXT = (*CHAIN, '--plugins=experiments/plugins/few_words.py', '--config.reward.name=few_words')
GYM = ('--config=experiments/gym_tasks.py:smoke', *SHORT)
PEER_PHASES = ('start', 'rollout', 'reward', 'update', 'checkpoint', 'evaluation')
WORKER_PHASES = {
  'reward that reads text': (TEXT, ('rollout', 'reward', 'evaluation')),
  'reasoning-gym': (GYM, ('step', 'reward', 'evaluation')),
}
FIRST = 4  # the update in which workers get the first signal
MOMENTS = ('its start', 'no question', 'a question')
COUNT = len(SIGNALS) * (len(MOMENTS) + sum(len(phases) for _, phases in WORKER_PHASES.values()) + len(PEER_PHASES))
SYMBOLIC = (r'\boxed{\sqrt{8} + x}', r'2\sqrt{2} + x')
SLOW = (r'\boxed{\binom{10^{10}}{10^9}}', '18')  # takes longer than any deadline


def run(folder: pathlib.Path, count: int, seed: int, figures: dict[str, Any]) -> Iterator[Case]:
  """Yields a case per signal, the quick ones first; `seed` says which of two peers gets the first signal."""
  waits = dict[str, list[float]]()
  yield from itertools.islice(itertools.chain(graders(waits), workers(folder, waits), peers(folder, seed, waits)), count)
  for what, seconds in waits.items():
    figures[f'{what}: seconds until it was over, at most'] = round(max(seconds), 1)


def graders(waits: dict[str, list[float]]) -> Iterator[Case]:
  """Stops and kills workers of computer algebra."""
  for number in SIGNALS:
    for moment in MOMENTS:
      with Grader(workers=1) as grader:
        asked = SLOW if moment == 'a question' else SYMBOLIC
        if moment != 'its start':
          grader.grade_all([SYMBOLIC])
        reached = threading.Event()
        sender = threading.Thread(target=_signal_child, args=(number, 0.2, reached), daemon=True)
        sender.start()
        if moment == 'no question':
          sender.join()
        began = time.monotonic()
        try:
          told = str(grader.grade_all([asked])[0].status)
        except RuntimeError as error:
          told = str(error)
        waited = time.monotonic() - began
        again = grader.grade_all([SYMBOLIC])
      waits.setdefault('computer algebra', []).append(waited)
      sender.join()
      good = waited < MINUTE and again[0] == (True, 'ok') and (told in ('timeout', 'error') or 'did not start' in told)
      note = f'{told} after {waited:.1f} s, then {again}' if reached.is_set() else 'the signal was not sent'
      yield Case(f'{number.name} to a worker of computer algebra in {moment}', good and reached.is_set(), note)


def _signal_child(number: signal.Signals, delay: float, reached: threading.Event) -> None:
  """Sends a signal to the newest worker process, once there is one, and tells so by `reached`. It looks for a minute."""
  time.sleep(delay)
  deadline = time.monotonic() + MINUTE
  while not (found := children(os.getpid())) and time.monotonic() < deadline:
    time.sleep(0.01)
  with contextlib.suppress(ProcessLookupError, IndexError):  # it has ended, or there was none
    os.kill(found[-1], number)
    reached.set()


def workers(folder: pathlib.Path, waits: dict[str, list[float]]) -> Iterator[Case]:
  """Stops and kills the workers of a run, phase by phase."""
  for what, (flags, phases) in WORKER_PHASES.items():
    names = [(number, phase) for number in SIGNALS for phase in phases]
    # Each signal is in another update, by which the workers of the last one are back.
    plan = [Signal(f'ESPO/{FIRST + i}/{phase}', 0.0, number, WORKERS) for i, (number, phase) in enumerate(names)]
    marks = folder / f'{what}.marks'
    flags = [*flags, f'--workdir={folder / what}', f'--compilation_cache_dir={folder / "compiled"}']
    job = Job(
      [['scripts/drills/marked.py', str(marks), json.dumps(plan), *flags]], logs=folder / 'logs', cache=folder / 'compiled'
    )
    (status,) = job.end(PATIENCE)
    rows = timeline(marks)
    places = [i for i, (_, name) in enumerate(rows) if name.startswith(SENT)]
    for n, (number, phase) in enumerate(names):
      name = f'{number.name} to the workers of {what} in {phase}'
      if n >= len(places) or rows[places[n]][1].endswith(' 0'):
        yield Case(name, False, f'the signal was not sent; status {status}: {job.output()[-1500:]}')
        continue
      if status != 0:
        yield Case(name, False, f'status {status}: {job.output()[-1500:]}')
        continue
      waited = max(b[0] - a[0] for a, b in zip(rows[places[n] :][:8], rows[places[n] + 1 :][:8], strict=False))
      waits.setdefault(what, []).append(waited)
      yield Case(name, waited < MINUTE, f'the run waited for {waited:.1f} s')


def peers(folder: pathlib.Path, seed: int, waits: dict[str, list[float]]) -> Iterator[Case]:
  """Stops and kills one of two processes, phase by phase."""
  flags = [*CHAIN, '--config.mesh.data=2', f'--workdir={folder / "peers"}', f'--compilation_cache_dir={folder / "compiled"}']
  for n, (phase, number) in enumerate((phase, number) for phase in PEER_PHASES for number in SIGNALS):
    peer = (n // 2 + n + seed) % 2
    mark = 'start' if phase == 'start' else f'ESPO/*/{phase}'
    name = f'{number.name} to process {peer} of 2 in {phase}'
    status, waited, told, output = _peer(folder, n, flags, peer, Signal(mark, 0.0, number))
    if waited is None:
      yield Case(name, False, f'the signal was not sent; status {status} of the other process: {output[-1500:]}')
      continue
    named = NAMED.search(told)
    ended = status not in (None, 0) or phase == 'start'
    waits.setdefault('a peer', []).append(waited)
    good = ended and named is not None and waited < MINUTE
    note = f'status {status}, {named and named[0]} after {waited:.1f} s' + ('' if good else f': {output[-1500:]}')
    yield Case(name, good, note)


def _peer(
  folder: pathlib.Path, n: int, flags: Sequence[str], peer: int, due: Signal
) -> tuple[int | None, float | None, str, str]:
  """Returns the other process's status, its seconds since the signal, its output and the output of both.

  The seconds are None if the signal was not sent before the process ended or the patience was over.
  """
  marks = [folder / f'peer-{n}-{i}.marks' for i in range(2)]
  plans = [json.dumps([due] if i == peer else []) for i in range(2)]
  commands = [['scripts/drills/marked.py', str(path), plan, *flags] for path, plan in zip(marks, plans, strict=True)]
  job = Job(commands, logs=folder / 'logs', cache=folder / 'compiled')
  other, began = job.processes[1 - peer], time.monotonic()
  try:
    while not sent(marks[peer]) and job.processes[peer].poll() is None and time.monotonic() - began < PATIENCE:
      time.sleep(0.05)
    if not sent(marks[peer]):
      return other.poll(), None, job.logs[1 - peer].read_text(), job.output()
    began = time.monotonic()
    while other.poll() is None and time.monotonic() - began < 2 * MINUTE:
      if due.mark == 'start' and NAMED.search(job.logs[1 - peer].read_text()):
        break  # it waits for a process that may yet come
      time.sleep(0.05)
    return other.poll(), time.monotonic() - began, job.logs[1 - peer].read_text(), job.output()
  finally:
    job.kill()

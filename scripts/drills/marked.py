"""Runs espo_jax.train as its command does, writes down when each phase begins, and sends a signal in one of them.

  PYTHONPATH=. python scripts/drills/marked.py MARKS PLAN [flags of espo_jax.train]

A line of the file MARKS is a time and the name of a mark, such as `ESPO/4/rollout`. PLAN is a JSON list of `Signal`s.
"""

import atexit
import contextlib
import fnmatch
import glob
import json
import os
import pathlib
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

ITSELF, WORKERS = 'itself', 'its workers'
SENT = 'signal '  # how the line of a signal that was sent begins


class Signal(NamedTuple):
  """A signal that a process gets at a moment.

  Attributes:
    mark: The pattern of a mark, such as `ESPO/*/rollout`, at whose first occurrence the clock starts.
    delay: The seconds from then on.
    number: The signal.
    whom: The process itself, or the worker processes that it has started.
    beside: The pattern of a path that the run must write before the delay begins; '' for none.
  """

  mark: str
  delay: float
  number: int = signal.SIGKILL
  whom: str = ITSELF
  beside: str = ''


class Marks:
  """The file of marks, and the signals that are due, one after another."""

  def __init__(self, path: str, due: list[Signal]):
    self._file = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    self._due, self._start = due, time.time()
    self.stage, self.place = '', ''

  def __call__(self, name: str) -> None:
    """Writes a mark, and starts the clock of the next signal if it is due at this mark."""
    os.write(self._file, f'{time.time():.6f} {name}\n'.encode())
    if self._due and fnmatch.fnmatchcase(name, self._due[0].mark):
      threading.Thread(target=self._send, args=(self._due.pop(0),), daemon=True).start()

  def _send(self, due: Signal) -> None:
    while due.beside and not written_since(due.beside, self._start):
      time.sleep(0.0005)
    time.sleep(due.delay)
    whom = [os.getpid()] if due.whom == ITSELF else children(os.getpid())
    os.write(self._file, f'{time.time():.6f} {SENT}{due.number} to {len(whom)}\n'.encode())
    for process in whom:
      with contextlib.suppress(ProcessLookupError):  # it ended meanwhile
        os.kill(process, due.number)


def children(process: int) -> list[int]:
  """Returns the child processes of a process."""
  found = set[int]()
  for task in pathlib.Path(f'/proc/{process}/task').iterdir():
    with contextlib.suppress(OSError):  # the thread ended meanwhile
      found |= {int(child) for child in (task / 'children').read_text().split()}
  return sorted(found)


def written_since(pattern: str, when: float) -> bool:
  """Returns whether a path of a pattern has changed since a time. One that an earlier run left has not."""
  for path in glob.iglob(pattern, recursive=True):
    with contextlib.suppress(OSError):  # it was renamed meanwhile
      if os.stat(path).st_mtime > when:
        return True
  return False


def timeline(path: pathlib.Path) -> list[tuple[float, str]]:
  """Returns the marks in a file with their seconds since the first one."""
  rows = _rows(path)
  return [(when - rows[0][0], name) for when, name in rows]


def sent(path: pathlib.Path) -> float:
  """Returns the time of the first signal in a file of marks; 0 if none was sent yet."""
  return next((when for when, name in _rows(path) if name.startswith(SENT)), 0.0)


def _rows(path: pathlib.Path) -> list[tuple[float, str]]:
  rows = [line.split(' ', 1) for line in path.read_text().splitlines()] if path.exists() else []
  return [(float(when), name) for when, name in rows]


def instrument(mark: Marks) -> None:
  """Puts marks into the functions of a training where its phases begin."""
  from espo_jax import train
  from espo_jax.evaluate import answers
  from espo_jax.learner import Checkpoints
  from espo_jax.stages import loop, results, rl
  from espo_jax.stages.metrics import Clock

  whole, timed, save = loop.Stage, Clock.__call__, Checkpoints.save

  def stage(**fields: Any) -> loop.Stage:
    name, one = fields['name'], fields['step']
    mark.stage = mark.place = name
    mark(f'{name}/restore')

    def step(state: Any, number: int) -> Any:
      mark.place = f'{name}/{number}'
      mark(f'{mark.place}/step')
      result = one(state, number)
      mark(f'{mark.place}/metrics')
      return result

    return whole(**fields | {'step': step})

  @contextlib.contextmanager
  def phase(clock: Clock, name: str) -> Iterator[None]:
    mark(f'{mark.place}/{name}')
    with timed(clock, name):
      yield

  def saved(checkpoints: Checkpoints, step: int, *args: Any, **fields: Any) -> None:
    mark(f'{mark.stage}/{step}/checkpoint')
    save(checkpoints, step, *args, **fields)

  def before(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    def marked(*args: Any, **kwargs: Any) -> Any:
      mark(f'{mark.place}/{name}')
      return function(*args, **kwargs)

    return marked

  loop.Stage, Clock.__call__, Checkpoints.save = stage, phase, saved
  answers.evaluate_params = results.evaluate_params = before(answers.evaluate_params, 'evaluation')
  rl.evaluate_params = answers.evaluate_params
  train.warm_start = before(train.warm_start, 'load')
  train.write_examples = before(train.write_examples, 'examples')
  train.report = before(train.report, 'report')


def main() -> None:
  """Runs the command."""
  path, plan, *flags = sys.argv[1:]
  mark = Marks(path, [Signal(*fields) for fields in json.loads(plan)])
  mark('start')
  from absl import app

  from espo_jax import train
  from espo_jax.configs import parse_flags

  instrument(mark)
  atexit.register(mark, 'end')
  sys.argv = [train.__file__, *flags]
  app.run(train.main, flags_parser=parse_flags)


if __name__ == '__main__':
  signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
  main()

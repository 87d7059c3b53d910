"""Runs as a process that compares answers by computer algebra.

`process.WorkerProcess` starts this file. The file loads its modules by path, because importing the package would import JAX.
Its arguments are the number of seconds after which it ends itself, and the memory limit in bytes. It communicates by lines of
JSON. When it is ready it writes `{}` or `{"error": ...}`. Then it reads `[prediction, answer]` and writes `[correct, status]`.
While it works, an empty line every few seconds tells its parent that it has not been stopped.
"""

import contextlib
import importlib.util
import json
import logging
import os
import resource
import signal
import sys
import threading
import time
import typing
from pathlib import Path

SIGN_SECONDS = 5.0  # between two signs of life; the parent waits several times as long


def main() -> None:
  """Serves comparisons until the input ends."""
  seconds, memory = map(int, sys.argv[1:])
  with contextlib.suppress(ValueError, OSError):  # not every system can limit the address space; the deadline works everywhere
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
  serve(seconds, _load)


def serve(seconds: int, load: typing.Callable[[], typing.Callable[[typing.Any], object]]) -> None:
  """Answers the questions of a `WorkerProcess` until the input ends.

  Args:
    seconds: The number of seconds after which an unanswered question ends the process.
    load: The function that does the imports, and returns the function from a question to its reply.
  """
  for number in (signal.SIGINT, signal.SIGTERM):  # the parent handles signals, and may still need this process
    signal.signal(number, signal.SIG_IGN)
  replies = _Replies(os.dup(1))
  os.dup2(2, 1)  # the output of libraries must not be among the replies
  logging.disable(logging.CRITICAL)
  try:
    answer = load()
  except Exception as error:
    replies.send({'error': f'{type(error).__name__}: {error}'})
    return
  replies.send({})
  for line in sys.stdin:
    signal.alarm(seconds)  # the alarm is not handled, so it ends an orphan
    replies.works = True
    replies.send(answer(json.loads(line)))
    signal.alarm(0)


class _Replies:
  """The pipe to the parent, with a thread that writes an empty line every few seconds while `works` is true."""

  def __init__(self, pipe: int) -> None:
    self._pipe = os.fdopen(pipe, 'w')
    self._lock = threading.Lock()
    self.works = True
    threading.Thread(target=self._live, daemon=True).start()

  def send(self, message: object) -> None:
    with self._lock:
      self._pipe.write(json.dumps(message) + '\n')
      self._pipe.flush()
      self.works = False  # empty lines that nobody reads would fill the pipe

  def _live(self) -> None:
    while True:
      time.sleep(SIGN_SECONDS)
      with self._lock, contextlib.suppress(OSError):  # an orphan has an alarm
        if self.works:
          self._pipe.write('\n')
          self._pipe.flush()


def _load() -> typing.Callable[[typing.Any], object]:
  """Imports the algebra, and returns the function that compares a pair."""
  for name in ('quantities', 'algebra'):
    package = f'espo_jax.tasks.grading.{name}'
    spec = importlib.util.spec_from_file_location(package, Path(__file__).with_name(f'{name}.py'))
    assert spec is not None and spec.loader is not None
    module = sys.modules[package] = importlib.util.module_from_spec(spec)  # the next module imports it from there
    spec.loader.exec_module(module)
  module.compare('\\sqrt{8}', '2\\sqrt{2}')  # the first parse is slow, because it unpacks the grammar
  return lambda pair: module.compare(*pair)


if __name__ == '__main__':
  main()

"""The process that compares answers by computer algebra.

`process.WorkerProcess` runs this file. It reads its modules by path, for the package would import JAX. Its arguments are the
seconds after which to give up and the memory limit in bytes. Lines of JSON: `{}` or `{"error": ...}` goes out once, when ready;
then `[prediction, answer]` comes in and `[correct, status]` goes out.
"""

import contextlib
import importlib.util
import json
import logging
import os
import resource
import signal
import sys
import typing
from pathlib import Path


def main() -> None:
  """Serves comparisons until the input ends."""
  seconds, memory = map(int, sys.argv[1:])
  with contextlib.suppress(ValueError, OSError):  # not every system limits the address space; the deadline holds everywhere
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
  serve(seconds, _load)


def serve(seconds: int, load: typing.Callable[[], typing.Callable[[typing.Any], object]]) -> None:
  """Answers the questions of a `WorkerProcess` until the input ends.

  Args:
    seconds: the seconds after which a question ends the process.
    load: a function that imports what is needed, and returns the function from a question to its reply.
  """
  for number in (signal.SIGINT, signal.SIGTERM):  # the parent handles signals to the job, and may still need this process
    signal.signal(number, signal.SIG_IGN)
  replies = os.fdopen(os.dup(1), 'w')
  os.dup2(2, 1)  # what a library prints must not stand among the replies
  logging.disable(logging.CRITICAL)
  try:
    answer = load()
  except Exception as error:
    _send(replies, {'error': f'{type(error).__name__}: {error}'})
    return
  _send(replies, {})
  for line in sys.stdin:
    signal.alarm(seconds)  # the unhandled alarm ends the process, so that an orphan stops computing
    _send(replies, answer(json.loads(line)))
    signal.alarm(0)


def _send(replies: typing.TextIO, message: object) -> None:
  replies.write(json.dumps(message) + '\n')
  replies.flush()


def _load() -> typing.Callable[[typing.Any], object]:
  """Imports the algebra, and returns the comparison of a pair."""
  for name in ('quantities', 'algebra'):
    package = f'espo_jax.tasks.grading.{name}'
    spec = importlib.util.spec_from_file_location(package, Path(__file__).with_name(f'{name}.py'))
    assert spec is not None and spec.loader is not None
    module = sys.modules[package] = importlib.util.module_from_spec(spec)  # where the next one finds it
    spec.loader.exec_module(module)
  module.compare('\\sqrt{8}', '2\\sqrt{2}')  # the first parse is slow, because it unpacks the grammar
  return lambda pair: module.compare(*pair)


if __name__ == '__main__':
  main()

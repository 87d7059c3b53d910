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
  """Serves until the input ends."""
  seconds, memory = map(int, sys.argv[1:])
  for number in (signal.SIGINT, signal.SIGTERM):  # what goes to the whole job is for the parent, which may still have to grade
    signal.signal(number, signal.SIG_IGN)
  replies = os.fdopen(os.dup(1), 'w')
  os.dup2(2, 1)  # whatever a library prints goes elsewhere
  with contextlib.suppress(ValueError, OSError):  # not every system limits the address space; the deadline holds everywhere
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
  logging.disable(logging.CRITICAL)
  try:
    equal = _load()
    equal('\\sqrt{8}', '2\\sqrt{2}')  # the first parse is slow: it unpacks the grammar
    _send(replies, {})
  except Exception as error:
    _send(replies, {'error': f'{type(error).__name__}: {error}'})
    return
  for line in sys.stdin:
    signal.alarm(seconds)  # unhandled, it ends the process: an orphan must not go on computing
    _send(replies, equal(*json.loads(line)))
    signal.alarm(0)


def _send(replies: typing.TextIO, message: object) -> None:
  replies.write(json.dumps(message) + '\n')
  replies.flush()


def _load() -> typing.Callable[[str, str], tuple[bool, str]]:
  """Imports the algebra and returns the comparison."""
  for name in ('quantities', 'algebra'):
    package = f'espo_jax.tasks.grading.{name}'
    spec = importlib.util.spec_from_file_location(package, Path(__file__).with_name(f'{name}.py'))
    assert spec is not None and spec.loader is not None
    module = sys.modules[package] = importlib.util.module_from_spec(spec)  # where the next one finds it
    spec.loader.exec_module(module)
  return typing.cast(typing.Callable[[str, str], tuple[bool, str]], module.compare)


if __name__ == '__main__':
  main()

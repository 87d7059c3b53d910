"""One process a contender, so that their thread pools and memories stay apart: a line of JSON asks, a line answers.

Needs the standard library alone.
"""

import contextlib
import importlib.metadata
import json
import os
import pathlib
import platform
import resource
import subprocess
import sys
import traceback
from typing import Any


class ContenderError(Exception):
  """A contender's process failed; the message ends with what it printed."""


class Contender:
  """The benchmark's end: a process that waits until it is asked, and costs nothing meanwhile."""

  def __init__(self, name: str, python: str, module: str, options: dict[str, Any], log: pathlib.Path):
    """Start the process.

    Args:
      name: Of the contender.
      python: The interpreter of its environment.
      module: Whose `serve` answers.
      options: Handed to the contender that is served.
      log: What the process prints.
    """
    self.name, self._log = name, log
    scripts = pathlib.Path(__file__).parents[1]
    paths = [str(scripts), str(scripts.parent)]
    environment = os.environ | {'PYTHONPATH': os.pathsep.join(paths), 'TOKENIZERS_PARALLELISM': 'false', 'HF_HUB_OFFLINE': '1'}
    self._process = subprocess.Popen(
      [python, '-m', module, json.dumps(options)],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      stderr=log.open('w'),
      text=True,
      env=environment,
    )

  def ask(self, question: str, **arguments: Any) -> dict[str, Any]:
    """Have the contender do something, and wait for the answer."""
    assert self._process.stdin is not None and self._process.stdout is not None
    try:
      self._process.stdin.write(json.dumps([question, arguments]) + '\n')
      self._process.stdin.flush()
      line = self._process.stdout.readline()
    except BrokenPipeError:
      line = ''
    answer = json.loads(line) if line else {'error': 'the process died'}
    if 'error' in answer:
      printed = '\n'.join(self._log.read_text().splitlines()[-20:])
      raise ContenderError(f'{self.name}, asked to {question}: {answer["error"]}\n{printed}')
    return answer

  def cpu_seconds(self) -> tuple[float, float]:
    """Core-seconds that this process has used, and all processes of the machine together; zeros where no one counts them."""
    own, everyone = pathlib.Path(f'/proc/{self._process.pid}/stat'), pathlib.Path('/proc/stat')
    if not everyone.exists():
      return 0.0, 0.0
    ticks = os.sysconf('SC_CLK_TCK')
    user, system = own.read_text().rpartition(')')[2].split()[11:13]
    spent = [int(number) for number in everyone.read_text().split('\n', 1)[0].split()[1:9]]
    return (int(user) + int(system)) / ticks, (sum(spent) - spent[3] - spent[4]) / ticks  # all but idle and waiting

  def close(self) -> None:
    """End the process."""
    assert self._process.stdin is not None
    with contextlib.suppress(BrokenPipeError):
      self._process.stdin.close()
    try:
      self._process.wait(timeout=30)
    except subprocess.TimeoutExpired:
      self._process.kill()
      self._process.wait()


def serve(contender: type) -> None:
  """The contender's end: answers questions by the methods of that name until there are no more.

  Args:
    contender: A class whose objects are made from the options, and whose public methods return dictionaries.
  """
  answers = os.fdopen(os.dup(1), 'w')
  os.dup2(2, 1)  # what libraries print is not an answer
  served = None
  for line in sys.stdin:
    question, arguments = json.loads(line)
    try:
      served = contender(**json.loads(sys.argv[1])) if served is None else served
      answer = getattr(served, question)(**arguments)
      answer['peak_rss_mib'] = peak_rss_mib()
    except Exception as error:
      traceback.print_exc()
      answer = {'error': f'{type(error).__name__}: {error}'}
    answers.write(json.dumps(answer) + '\n')
    answers.flush()


def peak_rss_mib() -> float:
  """The most memory this process had, MiB."""
  status = pathlib.Path('/proc/self/status')
  if status.exists():  # getrusage counts what the parent had when it forked
    lines = dict(line.split(':', 1) for line in status.read_text().splitlines() if ':' in line)
    return round(int(lines['VmHWM'].split()[0]) / 1024, 1)
  return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2, 1)  # macOS: bytes


def versions(*packages: str) -> dict[str, str]:
  """Those of Python and of packages of this environment."""
  return {'python': platform.python_version()} | {name: importlib.metadata.version(name) for name in packages}


def cores() -> int:
  """Those this process may use."""
  return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1

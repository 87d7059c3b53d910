"""Runs each contender in a process of its own, so that thread pools and memory are not shared.

Questions and answers are lines of JSON. This module needs only the standard library.
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
  """A contender's process failed. The message ends with the last lines that it printed."""


class Contender:
  """The process of a contender, as the benchmark uses it. The process uses no CPU time between questions."""

  def __init__(self, name: str, python: str, module: str, options: dict[str, Any], log: pathlib.Path):
    """Starts the process.

    Args:
      name: The contender's name, for messages.
      python: The Python interpreter of the contender's environment.
      module: The module to run, which calls `serve`.
      options: The keyword arguments of the contender's class.
      log: The file for everything that the process prints.
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
    """Calls a method of the contender by name, and waits for its result.

    Raises:
      ContenderError: The method raised an error, or the process died.
    """
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
    """Returns the core-seconds that this process and that all processes have used; zeros without /proc."""
    own, everyone = pathlib.Path(f'/proc/{self._process.pid}/stat'), pathlib.Path('/proc/stat')
    if not everyone.exists():
      return 0.0, 0.0
    ticks = os.sysconf('SC_CLK_TCK')
    user, system = own.read_text().rpartition(')')[2].split()[11:13]
    spent = [int(number) for number in everyone.read_text().split('\n', 1)[0].split()[1:9]]
    return (int(user) + int(system)) / ticks, (sum(spent) - spent[3] - spent[4]) / ticks  # without idle and waiting time

  def close(self) -> None:
    """Ends the process."""
    assert self._process.stdin is not None
    with contextlib.suppress(BrokenPipeError):
      self._process.stdin.close()
    try:
      self._process.wait(timeout=30)
    except subprocess.TimeoutExpired:
      self._process.kill()
      self._process.wait()


def serve(contender: type) -> None:
  """Answers the questions of a `Contender` until its input ends. A question calls the method of that name.

  Args:
    contender: A class that takes the options as keyword arguments, and whose public methods return dictionaries.
  """
  answers = os.fdopen(os.dup(1), 'w')
  os.dup2(2, 1)  # what libraries print goes to the log
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
  """Returns the peak memory of this process in MiB."""
  status = pathlib.Path('/proc/self/status')
  if status.exists():  # getrusage would include the parent's memory at the fork
    lines = dict(line.split(':', 1) for line in status.read_text().splitlines() if ':' in line)
    return round(int(lines['VmHWM'].split()[0]) / 1024, 1)
  return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2, 1)  # macOS: bytes


def versions(*packages: str) -> dict[str, str]:
  """Returns the versions of Python and of some packages of this environment."""
  return {'python': platform.python_version()} | {name: importlib.metadata.version(name) for name in packages}


def cores() -> int:
  """Returns the number of cores that this process may use."""
  return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1

"""The parent's end of a worker process: start, ask with a deadline, kill, start again."""

import json
import math
import os
import select
import subprocess
import sys
import time
from pathlib import Path

STARTUP_SECONDS = 120.0  # for the imports, on a machine that is busy

_WORKER = Path(__file__).with_name('worker.py')


class WorkerProcess:
  """A process that compares one pair of answers at a time, for one thread at a time; replaced when it is stuck, dead or old.

  It runs a file, with pipes for questions and replies: unlike a child of `multiprocessing` it does not import the main module
  again, which may be a notebook or lack a main guard.
  """

  def __init__(self, deadline: float, recycle_after: int, memory_mb: int) -> None:
    """Starts nothing yet; see `Grader` for the arguments."""
    self._deadline = deadline
    self._recycle_after = recycle_after
    # The alarm is for a worker whose parent is gone; twice the deadline, so that it never comes before the parent's.
    self._arguments = [str(memory_mb * 2**20), str(math.ceil(2 * deadline) + 1)]
    self._process: subprocess.Popen[bytes] | None = None
    self._ready = False
    self._answered = 0
    self._proven = False

  def ask(self, prediction: str, answer: str) -> tuple[bool, str]:
    """Whether two answers are equal, and the status: 'ok', 'timeout' or 'error'.

    Raises:
      RuntimeError: no process ever started; the message says why.
    """
    try:
      process = self._started()
    except (OSError, RuntimeError):
      self.stop()
      if self._proven:
        return False, 'error'
      raise
    try:
      correct, status = json.loads(_exchange(process, [prediction, answer], self._deadline))
    except TimeoutError:
      correct, status = False, 'timeout'
    except OSError:
      correct, status = False, 'error'
    else:
      self._answered += 1
      if self._answered < self._recycle_after:
        return correct, status
    self.stop()
    self._start()  # its imports run while nobody waits
    return correct, status

  def stop(self) -> None:
    """Kills the process, if there is one."""
    process, self._process = self._process, None
    if process is not None:
      process.kill()  # a worker ignores anything gentler, and has nothing to save
      process.communicate()

  def _start(self) -> subprocess.Popen[bytes]:
    self._ready = False
    self._answered = 0
    # -P: the worker's own folder must not shadow the standard library.
    self._process = subprocess.Popen(
      [sys.executable, '-P', str(_WORKER), *self._arguments],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      stderr=subprocess.DEVNULL,
      bufsize=0,
    )
    return self._process

  def _started(self) -> subprocess.Popen[bytes]:
    """The process, once it has imported what it needs."""
    process = self._process or self._start()
    if not self._ready:
      try:
        problem = json.loads(_read_line(process, STARTUP_SECONDS)).get('error')
      except TimeoutError:
        problem = f'no sign of life for {STARTUP_SECONDS:.0f} seconds'
      except OSError:
        problem = f'it died at once, with exit status {process.wait()}; is memory_mb large enough?'
      if problem:
        raise RuntimeError(
          f'the grading worker {sys.executable} {_WORKER} did not start: {problem}; fix: pip install -r requirements.txt'
        )
      self._ready = self._proven = True
    return process


def _exchange(process: subprocess.Popen[bytes], question: list[str], deadline: float) -> bytes:
  """Sends a question and returns the reply. Raises TimeoutError, or another OSError when the process is dead."""
  assert process.stdin is not None
  process.stdin.write(json.dumps(question).encode() + b'\n')  # ASCII, whatever the text; shorter than a pipe's buffer
  return _read_line(process, deadline)


def _read_line(process: subprocess.Popen[bytes], seconds: float) -> bytes:
  assert process.stdout is not None
  poll = select.poll()
  poll.register(process.stdout, select.POLLIN | select.POLLHUP)
  end = time.monotonic() + seconds
  line = b''
  while not line.endswith(b'\n'):
    if not poll.poll(max(0.0, 1_000 * (end - time.monotonic()))):
      raise TimeoutError
    part = os.read(process.stdout.fileno(), 65_536)
    if not part:
      raise BrokenPipeError
    line += part
  return line

"""Runs worker processes for their parent: starts them, asks with a deadline, kills and restarts them."""

import concurrent.futures
import json
import math
import os
import queue
import select
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

STARTUP_SECONDS = 120.0  # enough for the imports on a busy machine
SILENCE_SECONDS = 30.0  # a process that is silent for this long counts as stuck; a C call that keeps Python's lock is silent


def importing() -> dict[str, str]:
  """Returns environment variables with which a process finds the modules that this one finds, and JAX uses the CPU alone."""
  return os.environ | {'PYTHONPATH': os.pathsep.join(path or os.getcwd() for path in sys.path), 'JAX_PLATFORMS': 'cpu'}


class WorkerProcess:
  """A process that answers one question at a time, for one thread at a time.

  The process is replaced if it exceeds the deadline, if it is stopped, if it dies, and after a number of answers. It runs a
  Python file. Questions and replies are lines of JSON in pipes. Unlike a child of `multiprocessing`, it does not import the
  main module again, which may be a notebook or lack a main guard. The file's first argument is the number of seconds after
  which an orphan ends, and `arguments` follow. When the file is ready it writes `{}` or `{"error": ...}`. While it works it
  writes an empty line every few seconds, which is a sign of life.
  """

  def __init__(
    self,
    file: Path,
    arguments: Sequence[str],
    *,
    deadline: float,
    recycle_after: int,
    fix: str,
    environment: Mapping[str, str] | None = None,
  ) -> None:
    """Stores the settings. It starts no process.

    Args:
      file: The Python file that the process runs.
      arguments: The further arguments of the process.
      deadline: The seconds that the process has for a question. A process that takes longer is killed.
      recycle_after: The number of answers after which the process is replaced.
      fix: The fix in the error if the process does not start.
      environment: The environment variables of the process; by default the parent's.
    """
    self._file, self._environment = file, environment
    self._deadline = deadline
    self._recycle_after = recycle_after
    self._fix = fix
    # The alarm ends a worker whose parent is gone. It is twice the deadline, so that the parent kills a slow worker first.
    self._arguments = [str(math.ceil(2 * deadline) + 1), *arguments]
    self._process: subprocess.Popen[bytes] | None = None
    self._ready = False
    self._answered = 0
    self._proven = False

  def ask(self, question: Any) -> tuple[Any, str]:
    """Asks a question, and returns the reply and the status 'ok'; without a reply, None and 'timeout' or 'error'.

    Raises:
      RuntimeError: The process has never started. The message says why.
    """
    try:
      process = self._started()
    except (OSError, RuntimeError):
      self.stop()
      if self._proven:
        return None, 'error'
      raise
    try:
      reply, status = json.loads(_exchange(process, question, self._deadline)), 'ok'
    except TimeoutError:
      reply, status = None, 'timeout'
    except OSError:
      reply, status = None, 'error'
    else:
      self._answered += 1
      if self._answered < self._recycle_after:
        return reply, status
    self.stop()
    self._start()  # the new process imports before the next question
    return reply, status

  def stop(self) -> None:
    """Kills the process, if there is one."""
    process, self._process = self._process, None
    if process is not None:
      process.kill()  # a worker ignores SIGTERM and SIGINT, and has nothing to save
      process.communicate()

  def _start(self) -> subprocess.Popen[bytes]:
    self._ready = False
    self._answered = 0
    # -P: the worker's own folder must not shadow the standard library.
    self._process = subprocess.Popen(
      [sys.executable, '-P', str(self._file), *self._arguments],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      stderr=subprocess.DEVNULL,
      bufsize=0,
      env=self._environment,
    )
    assert self._process.stdin is not None
    os.set_blocking(self._process.stdin.fileno(), False)  # a worker that does not read must not block its parent
    return self._process

  def _started(self) -> subprocess.Popen[bytes]:
    """Returns the process after waiting for its imports."""
    process = self._process or self._start()
    if not self._ready:
      try:
        problem = json.loads(_read_line(process, STARTUP_SECONDS)).get('error')
      except TimeoutError as late:
        problem = str(late)
      except OSError:
        problem = f'it died at once, with exit status {process.wait()}'
      if problem:
        raise RuntimeError(f'the worker {sys.executable} {self._file} did not start: {problem}; fix: {self._fix}')
      self._ready = self._proven = True
    return process


class WorkerPool:
  """A few worker processes, which start when they are first needed. It is thread-safe."""

  def __init__(self, workers: Sequence[WorkerProcess]) -> None:
    """Stores the workers. It starts no process."""
    self._threads = concurrent.futures.ThreadPoolExecutor(len(workers), thread_name_prefix='grader')
    self._idle: queue.SimpleQueue[WorkerProcess] = queue.SimpleQueue()
    for worker in workers:
      self._idle.put(worker)
    self.closed = False

  def submit(self, question: Any) -> concurrent.futures.Future[tuple[Any, str]]:
    """Returns a future of the result of `WorkerProcess.ask`."""
    return self._threads.submit(self._ask, question)

  def close(self) -> None:
    """Waits for the running questions and ends the processes. A second call does nothing."""
    self.closed = True
    self._threads.shutdown()
    while not self._idle.empty():
      self._idle.get().stop()

  def _ask(self, question: Any) -> tuple[Any, str]:
    worker = self._idle.get()  # there is one worker per thread
    try:
      return worker.ask(question)
    finally:
      self._idle.put(worker)


def _exchange(process: subprocess.Popen[bytes], question: Any, deadline: float) -> bytes:
  """Sends a question and returns the reply.

  Raises:
    TimeoutError: The deadline has passed, or the process gave no sign of life.
    OSError: The process is dead.
  """
  end = time.monotonic() + deadline
  _write_line(process, json.dumps(question).encode() + b'\n', end)  # JSON is ASCII for every text
  return _read_line(process, end - time.monotonic())


def _write_line(process: subprocess.Popen[bytes], line: bytes, end: float) -> None:
  assert process.stdin is not None
  poll = select.poll()
  poll.register(process.stdin, select.POLLOUT | select.POLLERR)
  while line:
    if not poll.poll(max(0.0, 1_000 * min(end - time.monotonic(), SILENCE_SECONDS))):
      raise TimeoutError('it does not read')
    line = line[os.write(process.stdin.fileno(), line[:65_536]) :]


def _read_line(process: subprocess.Popen[bytes], seconds: float) -> bytes:
  """Reads a line after any number of empty ones, which are signs of life."""
  assert process.stdout is not None
  poll = select.poll()
  poll.register(process.stdout, select.POLLIN | select.POLLHUP)
  end = time.monotonic() + seconds
  line = b''
  while not line.endswith(b'\n'):
    left = end - time.monotonic()
    if not poll.poll(max(0.0, 1_000 * min(left, SILENCE_SECONDS))):
      silent = left > SILENCE_SECONDS
      raise TimeoutError(
        f'no sign of life for {SILENCE_SECONDS:.0f} seconds' if silent else f'not done in {seconds:.0f} seconds'
      )
    part = os.read(process.stdout.fileno(), 65_536)
    if not part:
      raise BrokenPipeError
    line = (line + part).lstrip(b'\n')
  return line

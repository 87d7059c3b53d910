"""The parent's end of a worker process: start, ask with a deadline, kill, start again."""

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

STARTUP_SECONDS = 120.0  # for the imports, on a machine that is busy


class WorkerProcess:
  """A process that answers one question at a time, for one thread at a time; replaced when it is stuck, dead or old.

  It runs a file, with pipes for questions and replies, which are lines of JSON. Unlike a child of `multiprocessing` it does not
  import the main module again, which may be a notebook or lack a main guard. The file's arguments are the seconds after which
  an orphan gives up, and `arguments`. It writes `{}` or `{"error": ...}` once it is ready.
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
    """Starts nothing yet.

    Args:
      file: the file that the process runs.
      arguments: the further arguments of the process.
      deadline: the seconds that the process has for a question. A process that takes longer is killed.
      recycle_after: the number of answers after which the process is replaced.
      fix: what to do where the process does not start.
      environment: the environment variables of the process; by default the parent's.
    """
    self._file, self._environment = file, environment
    self._deadline = deadline
    self._recycle_after = recycle_after
    self._fix = fix
    # The alarm is for a worker whose parent is gone; twice the deadline, so that it never comes before the parent's.
    self._arguments = [str(math.ceil(2 * deadline) + 1), *arguments]
    self._process: subprocess.Popen[bytes] | None = None
    self._ready = False
    self._answered = 0
    self._proven = False

  def ask(self, question: Any) -> tuple[Any, str]:
    """The reply to a question, and the status: 'ok', or with no reply 'timeout' or 'error'.

    Raises:
      RuntimeError: no process ever started; the message says why.
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
    self._start()  # its imports run while nobody waits
    return reply, status

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
      [sys.executable, '-P', str(self._file), *self._arguments],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      stderr=subprocess.DEVNULL,
      bufsize=0,
      env=self._environment,
    )
    assert self._process.stdin is not None
    os.set_blocking(self._process.stdin.fileno(), False)  # a worker that does not read must not hold its parent up
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
        problem = f'it died at once, with exit status {process.wait()}'
      if problem:
        raise RuntimeError(f'the worker {sys.executable} {self._file} did not start: {problem}; fix: {self._fix}')
      self._ready = self._proven = True
    return process


class WorkerPool:
  """A few worker processes, started when first needed. Any thread may use them, several at once."""

  def __init__(self, workers: Sequence[WorkerProcess]) -> None:
    """Starts nothing yet."""
    self._threads = concurrent.futures.ThreadPoolExecutor(len(workers), thread_name_prefix='grader')
    self._idle: queue.SimpleQueue[WorkerProcess] = queue.SimpleQueue()
    for worker in workers:
      self._idle.put(worker)
    self.closed = False

  def submit(self, question: Any) -> concurrent.futures.Future[tuple[Any, str]]:
    """What `WorkerProcess.ask` will say of a question."""
    return self._threads.submit(self._ask, question)

  def close(self) -> None:
    """Waits for the questions at work and ends the processes. Closing twice is fine."""
    self.closed = True
    self._threads.shutdown()
    while not self._idle.empty():
      self._idle.get().stop()

  def _ask(self, question: Any) -> tuple[Any, str]:
    worker = self._idle.get()  # there are as many as threads
    try:
      return worker.ask(question)
    finally:
      self._idle.put(worker)


def _exchange(process: subprocess.Popen[bytes], question: Any, deadline: float) -> bytes:
  """Sends a question and returns the reply. Raises TimeoutError, or another OSError when the process is dead."""
  end = time.monotonic() + deadline
  _write_line(process, json.dumps(question).encode() + b'\n', end)  # ASCII, whatever the text
  return _read_line(process, end - time.monotonic())


def _write_line(process: subprocess.Popen[bytes], line: bytes, end: float) -> None:
  assert process.stdin is not None
  poll = select.poll()
  poll.register(process.stdin, select.POLLOUT | select.POLLERR)
  while line:
    if not poll.poll(max(0.0, 1_000 * (end - time.monotonic()))):
      raise TimeoutError
    line = line[os.write(process.stdin.fileno(), line[:65_536]) :]


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

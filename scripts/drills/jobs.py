"""Starts the processes of a job, with some virtual CPU devices each, and keeps their outputs in files."""

import atexit
import contextlib
import os
import pathlib
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence

ROOT = pathlib.Path(__file__).parents[2]
PATIENCE = 1800.0  # seconds after which a run counts as hanging
CHEAP = {'JAX_DISABLE_MOST_OPTIMIZATIONS': 'true', 'JAX_PLATFORMS': 'cpu'}  # compiling is most of the time of a small training


class Job:
  """The processes of a job. They are children of this process, and their outputs are in the files `logs`."""

  def __init__(
    self,
    commands: Sequence[Sequence[str]],
    *,
    logs: pathlib.Path,
    cache: pathlib.Path,
    devices: int = 1,
    path: pathlib.Path = ROOT,
    environment: Mapping[str, str] = CHEAP,
  ):
    """Starts one Python process per command.

    Args:
      commands: The arguments of Python, for each process.
      logs: The folder of the outputs.
      cache: The folder of compiled programs.
      devices: The virtual devices of each process.
      path: A folder that modules are imported from, besides the checkout.
      environment: Variables that are set besides those of this process.
    """
    with socket.socket() as free:
      free.bind(('localhost', 0))
      port = free.getsockname()[1]
    logs.mkdir(parents=True, exist_ok=True)
    self.logs = [logs / f'{time.monotonic_ns()}-{i}.log' for i in range(len(commands))]
    self.processes = list[subprocess.Popen]()
    atexit.register(self.kill)
    for i, (command, log) in enumerate(zip(commands, self.logs, strict=True)):
      env = os.environ | {
        'PYTHONPATH': os.pathsep.join((str(path), str(ROOT))),
        # The last one of a flag counts.
        'XLA_FLAGS': f'{os.environ.get("XLA_FLAGS", "")} --xla_force_host_platform_device_count={devices}',
        'JAX_COMPILATION_CACHE_DIR': str(cache),
        'JAX_COORDINATOR_ADDRESS': f'localhost:{port}',
        'JAX_NUM_PROCESSES': str(len(commands)),
        'JAX_PROCESS_ID': str(i),
        **environment,
      }
      with log.open('w') as output:
        self.processes.append(
          subprocess.Popen(
            [sys.executable, *command], cwd=ROOT, env=env, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
          )
        )

  def end(self, timeout: float = 300) -> list[int | None]:
    """Returns the exit statuses after at most `timeout` seconds; None for a process that had not ended, which is killed."""
    deadline = time.monotonic() + timeout
    statuses: list[int | None] = []
    for process in self.processes:
      with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(max(deadline - time.monotonic(), 0))
      statuses.append(process.poll())
    self.kill()
    return statuses

  def kill(self) -> None:
    """Kills every process that is left, also a stopped one, and waits for its end."""
    for process in self.processes:
      process.kill()
      process.wait()

  def left(self) -> list[int]:
    """Returns the processes that are still in the sessions of the job, such as a worker that outlived its parent."""
    found, sessions = [], {process.pid for process in self.processes}
    for path in pathlib.Path('/proc').glob('[0-9]*'):
      with contextlib.suppress(OSError):  # it ended meanwhile
        fields = (path / 'stat').read_text().rpartition(')')[2].split()
        if fields[0] != 'Z' and int(fields[3]) in sessions:
          found.append(int(path.name))
    return found

  def wait_for(self, reached: Callable[[], object]) -> None:
    """Waits until `reached()` is true.

    Raises:
      AssertionError: A process ended before; the message is the output of all.
    """
    while not reached():
      assert all(process.poll() is None for process in self.processes), self.output()
      time.sleep(0.01)

  def output(self) -> str:
    """Returns what the processes have printed."""
    return '\n'.join(log.read_text(errors='replace') for log in self.logs)

"""Measures memory, and defines the error that names the phase in which memory ran out."""

import contextlib
import os
import pathlib
import re
from collections.abc import Iterator

import jax

LOADING, READING = 'loading the parameters', 'reading the data'
SAYS_SO = re.compile(r'out.?of.?memory|ran out of|RESOURCE_EXHAUSTED(?=.*(memory|alloc))', re.IGNORECASE | re.DOTALL)


class OutOfMemory(MemoryError):
  """A device or the host has no memory left.

  Attributes:
    phase: The phase in which memory ran out; '' if no phase is known.
    reason: The first line of the original message.
  """

  def __init__(self, phase: str, reason: str):
    self.phase, self.reason = phase, reason
    super().__init__(f'out of memory{phase and f" during {phase}"}: {reason}')


@contextlib.contextmanager
def during(phase: str) -> Iterator[None]:
  """Name the phase of the code inside. If phases are nested, the error has the innermost name.

  Raises:
    OutOfMemory: A device or the host has no memory left. It replaces the error that jax or Python raised.
  """
  try:
    yield
  except OutOfMemory as error:
    raise error if error.phase else OutOfMemory(phase, error.reason) from error
  except (MemoryError, jax.errors.JaxRuntimeError) as error:
    if not isinstance(error, MemoryError) and not SAYS_SO.search(str(error)):
      raise
    raise OutOfMemory(phase, next(iter(str(error).strip().splitlines()), '') or type(error).__name__) from error


def device_bytes() -> int:
  """Returns the bytes of memory of the first device.

  For an accelerator jax reports them. For a CPU they are an equal share of the host's memory.
  """
  stats = jax.local_devices()[0].memory_stats() or {}  # none on a CPU
  return stats.get('bytes_limit', _host_bytes() // jax.local_device_count())


def free_bytes(devices: int, system: pathlib.Path = pathlib.Path('/')) -> int:
  """Returns the bytes per device that a run may take.

  For an accelerator this is the device's limit. For a CPU it is an equal share of what the process may take beyond what it has
  now: the memory that is available on the host, or the limit of the process's control groups if that leaves less.

  Args:
    devices: The number of devices of this process that the run uses.
    system: The root of the file system. Its folders `proc` and `sys` say what the process may take; without them it is the
      host's whole memory.
  """
  if stats := jax.local_devices()[0].memory_stats():
    return stats['bytes_limit']
  try:
    resident = int((system / 'proc/self/statm').read_text().split()[1]) * os.sysconf('SC_PAGE_SIZE')
    (available,) = re.findall(r'^MemAvailable: +(\d+) kB', (system / 'proc/meminfo').read_text(), re.MULTILINE)
  except OSError:  # another system than Linux
    return _host_bytes() // devices
  return max(0, min(int(available) * 1024, *(limit - resident for limit in _group_limits(system)), _host_bytes())) // devices


def _group_limits(system: pathlib.Path) -> Iterator[int]:
  """Yields the limits of the control groups that the process is in, of version 1 or 2, and of the groups around them."""
  for line in (system / 'proc/self/cgroup').read_text().splitlines():
    _, controllers, path = line.split(':', 2)
    if controllers not in ('', 'memory'):
      continue
    root, name = system / 'sys/fs/cgroup' / controllers, 'memory.limit_in_bytes' if controllers else 'memory.max'
    own = root / path.lstrip('/')
    for folder in (own, *own.parents):
      if (
        folder.is_relative_to(root) and (folder / name).is_file() and (text := (folder / name).read_text().strip()).isdecimal()
      ):
        yield int(text)


def _host_bytes() -> int:
  return os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')

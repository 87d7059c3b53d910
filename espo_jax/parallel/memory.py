"""Measures memory, and defines the error that names the phase in which memory ran out."""

import contextlib
import os
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
  host = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
  return stats.get('bytes_limit', host // jax.local_device_count())

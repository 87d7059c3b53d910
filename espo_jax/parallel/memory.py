"""What there is of memory, and an error that says what was under way when it ran out."""

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
    phase: What was under way; '' where nobody has said it.
    reason: The first line of the original message.
  """

  def __init__(self, phase: str, reason: str):
    self.phase, self.reason = phase, reason
    super().__init__(f'out of memory{phase and f" during {phase}"}: {reason}')


@contextlib.contextmanager
def during(phase: str) -> Iterator[None]:
  """Name what is under way inside; of names inside each other the innermost is told.

  Raises:
    OutOfMemory: A device or the host has no memory left; jax or Python raised an error of its own.
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
  """The memory of the first device: the accelerator's as jax tells it, on a CPU an equal share of the host's."""
  stats = jax.local_devices()[0].memory_stats() or {}  # none on a CPU
  host = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
  return stats.get('bytes_limit', host // jax.local_device_count())

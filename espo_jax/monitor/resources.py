"""Measures the resources of this process so far: compiled programs, seconds of compilation and peak memory."""

import resource
import sys

import jax

_COMPILED: list[float] = []  # seconds of each program; a program read from the persistent cache counts with its reading time


def _note(event: str, duration_secs: float, **_: str | int) -> None:
  if event == '/jax/core/compile/backend_compile_duration':
    _COMPILED.append(duration_secs)


jax.monitoring.register_event_duration_secs_listener(_note)


def process_metrics() -> dict[str, float]:
  """Returns the number of compiled programs, their compile time in seconds, and the peak memory in GiB.

  The peak is that of the first accelerator. On a CPU it is that of the process.
  """
  return {
    'process/compiled_programs': float(len(_COMPILED)),
    'process/compile_seconds': sum(_COMPILED),
    'process/peak_memory_gib': _peak_bytes() / 2**30,
  }


def _peak_bytes() -> int:
  stats = jax.local_devices()[0].memory_stats() or {}  # none on a CPU
  if 'peak_bytes_in_use' in stats:
    return stats['peak_bytes_in_use']
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  return peak if sys.platform == 'darwin' else peak * 1024

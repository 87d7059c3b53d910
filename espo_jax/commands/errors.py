"""Reports a missing device, a lack of memory or a disk that fails, and says what to change."""

import contextlib
import errno
import os
import pathlib
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import ml_collections

from espo_jax.configs.memory import smaller
from espo_jax.parallel import DeviceError
from espo_jax.parallel.memory import LOADING, READING, OutOfMemory, during
from espo_jax.parallel.storage import DamagedFile

_AGAIN = 'then the same command'
_FIXES = {
  errno.ENOSPC: f'make room, {_AGAIN}',
  errno.EDQUOT: f'make room within the quota, {_AGAIN}',
  errno.EFBIG: 'a file system and a limit (ulimit -f) that allow larger files',
  errno.EROFS: 'a folder on a file system that can be written',
  errno.EACCES: 'a folder that you may read and write (chmod, chown)',
  errno.EPERM: 'a folder that you may read and write (chmod, chown)',
  errno.EMFILE: f'a higher limit (ulimit -n), {_AGAIN}',
  errno.ENFILE: f'fewer open files on this machine, {_AGAIN}',
  errno.EIO: f'see what the system log says of the disk, {_AGAIN}',
}


@contextlib.contextmanager
def machine_errors(lower: Callable[[str], str]) -> Iterator[None]:
  """Ends the command with one line that says what to do if a device, memory, a disk or a file fails inside.

  Args:
    lower: The function that returns what to change, given the phase in which memory ran out.
  """
  try:
    with during(''):
      yield
  except (DamagedFile, DeviceError) as error:
    sys.exit(f'error: {error}')
  except OutOfMemory as error:
    sys.exit(f'error: {error}; fix: {lower(error.phase)}')
  except OSError as error:
    if error.errno is None or (error.errno not in _FIXES and error.filename is None):
      raise
    sys.exit(f'error: {_storage_error(error)}')


def _storage_error(error: OSError) -> str:
  """Returns the message of an error about a file: its path, the reason, what is free where room is short, and the fix."""
  path = os.fspath(error.filename or '')
  path = os.fsdecode(path) if isinstance(path, bytes) else str(path)
  said = f'{path}: {error.strerror}' if path else f'{error.strerror}'
  if error.errno == errno.ENOSPC:
    said += _free(pathlib.Path(path).absolute())
  return f'{said}; fix: {_FIXES.get(error.errno or 0, "a path of the right kind that exists, and may be read and written")}'


def _free(path: pathlib.Path) -> str:
  """Returns what is free on the file system of a path: room, and places for files, of which a disk may also have no more."""
  there = next((folder for folder in (path, *path.parents) if folder.exists()), None)
  if there is None:
    return ''
  found = os.statvfs(there)
  room, size = (count * found.f_frsize / 2**20 for count in (found.f_bavail, found.f_blocks))
  files = f' and {found.f_favail:,} of {found.f_files:,} inodes' if found.f_files else ''
  return f' ({room:,.1f} of {size:,.1f} MiB{files} are free)'


def lower_fields(config: ml_collections.ConfigDict, phase: str, written: str = '--config.{}={}') -> str:
  """Returns what to change about a training that ran out of memory.

  Args:
    config: The config of the run.
    phase: The phase in which memory ran out.
    written: The format in which a field and its value are written.
  """
  if phase == READING:
    return f'{written.format("data.path", "FILE")} with fewer rows, or a host with more memory'
  fields = {} if phase == LOADING else smaller(config, phase)
  if phase not in ('rollout', 'evaluation', 'score'):
    fields |= {'model.param_dtype': 'bfloat16'} if config.model.param_dtype == 'float32' else {}
  if phase == 'update' and not config.learner.offload_optimizer:
    fields['learner.offload_optimizer'] = True
  changes = [written.format(field, value) for field, value in fields.items()]
  return ', '.join([*changes, f'or {written.format("mesh.fsdp", -1)} on more devices'])


def lower_flags(flags: Mapping[str, Any], also: str) -> str:
  """Returns what to change about a command with flags of its own.

  Args:
    flags: A value that needs less memory, by flag; None for a flag that cannot be lowered.
    also: Another remedy.
  """
  changes = [f'--{name}={value}' for name, value in flags.items() if value is not None]
  return ', '.join([*changes, f'or {also}'] if changes else [also])

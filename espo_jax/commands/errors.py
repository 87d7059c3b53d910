"""Reports a missing device or a lack of memory, and says what to change."""

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import ml_collections

from espo_jax.configs.memory import smaller
from espo_jax.parallel import DeviceError
from espo_jax.parallel.memory import LOADING, READING, OutOfMemory, during


@contextlib.contextmanager
def machine_errors(lower: Callable[[str], str]) -> Iterator[None]:
  """Ends the command with one line that says what to do if a device is missing or memory runs out inside.

  Args:
    lower: The function that returns what to change, given the phase in which memory ran out.
  """
  try:
    with during(''):
      yield
  except DeviceError as error:
    sys.exit(f'error: {error}')
  except OutOfMemory as error:
    sys.exit(f'error: {error}; fix: {lower(error.phase)}')


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

"""Several processes as one job: found from the environment, told the same, ended together."""

import json
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

T = TypeVar('T')

_ADDRESS, _COUNT, _INDEX = 'JAX_COORDINATOR_ADDRESS', 'JAX_NUM_PROCESSES', 'JAX_PROCESS_ID'
_LAUNCHERS = {'SLURM_STEP_NUM_TASKS': 'srun', 'OMPI_COMM_WORLD_SIZE': 'mpirun'}  # what says how many they have started
_SILENCE = 30  # seconds without a sign of life after which a process counts as dead, or is not waited for at the end
_LOST = (
  'Where a connection was lost, another process has ended: its log says why. '
  'The same command on every process goes on from the newest checkpoint.'
)


@contextmanager
def job() -> Iterator[None]:
  """Whatever runs inside is a part of one job with the processes beside it, if there are any; entered once, before devices.

  They find each other by `process_arguments`. When one of them fails or dies, all end: the failing one at once and with its own
  message, the others when a collective fails or, after 30 seconds without a sign of life, with jax's message.
  """
  try:
    arguments = process_arguments(os.environ)
  except ValueError as error:
    sys.exit(f'error: {error}')
  if not _initialized(arguments):
    yield
    return
  sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # jax may abort this process, which flushes nothing
  try:
    yield
  except BaseException as error:
    if isinstance(error, SystemExit) and not isinstance(error.code, str):
      raise  # all end together
    # An ordinary end would wait for the others, which wait in a collective for this one.
    if isinstance(error, SystemExit):
      print(error.code, file=sys.stderr)
    else:
      traceback.print_exc()
    print(f'error: this process of the job failed. {_LOST}', file=sys.stderr, flush=True)
    os._exit(1)


def process_arguments(environment: Mapping[str, str]) -> dict[str, Any] | None:
  """The arguments of `jax.distributed.initialize` that follow from the environment; None where there is one process.

  `JAX_COORDINATOR_ADDRESS`, `JAX_NUM_PROCESSES` and `JAX_PROCESS_ID` together say all, `JAX_NUM_PROCESSES=1` that there is no
  other. Without them jax asks what started it: a TPU pod, GKE, SLURM, Open MPI. Open MPI 5 no longer says where its first
  process is, and takes the address beside it.

  Raises:
    ValueError: What is there does not say enough.
  """
  named = {name: environment[name] for name in (_ADDRESS, _COUNT, _INDEX) if environment.get(name)}
  if named.get(_COUNT) == '1':
    return None
  if _COUNT in named or _INDEX in named:
    if lacking := [name for name in (_ADDRESS, _COUNT, _INDEX) if name not in named]:
      raise ValueError(f'{", ".join(named)} without {", ".join(lacking)}; fix: all three, such as {_ADDRESS}=host0:8476')
    count, index = (_whole(name, named[name]) for name in (_COUNT, _INDEX))
    if index >= count:
      raise ValueError(f'{_INDEX}={index} with {_COUNT}={count}; fix: from 0 to {count - 1}')
    return {
      'coordinator_address': named[_ADDRESS],
      'num_processes': count,
      'process_id': index,
      'cluster_detection_method': 'deactivate',
    }
  if _ADDRESS in named and 'OMPI_COMM_WORLD_SIZE' in environment:
    return {
      'coordinator_address': named[_ADDRESS],
      'num_processes': _whole('OMPI_COMM_WORLD_SIZE', environment['OMPI_COMM_WORLD_SIZE']),
      'process_id': _whole('OMPI_COMM_WORLD_RANK', environment['OMPI_COMM_WORLD_RANK']),
      'local_device_ids': [_whole('OMPI_COMM_WORLD_LOCAL_RANK', environment['OMPI_COMM_WORLD_LOCAL_RANK'])],
    }
  if _ADDRESS in named and 'SLURM_STEP_NUM_TASKS' not in environment:
    raise ValueError(f'{_ADDRESS}={named[_ADDRESS]} alone; fix: {_COUNT} and {_INDEX} beside it, or none of the three')
  return {}


def _whole(name: str, value: str) -> int:
  if not value.isdecimal():
    raise ValueError(f'{name}={value!r}: not a whole number of at least 0; fix: such as {name}=2')
  return int(value)


def _initialized(arguments: dict[str, Any] | None) -> bool:
  """Join the others; False where there are none."""
  if arguments is None:
    return False
  jax.config.update('jax_enable_preemption_service', False)  # its handler would take the SIGTERM that `stage` answers
  try:
    jax.distributed.initialize(**arguments, heartbeat_timeout_seconds=_SILENCE, shutdown_timeout_seconds=_SILENCE)
  except ValueError as error:
    if 'coordinator_address' not in str(error):
      raise
    for name, launcher in _LAUNCHERS.items():
      if int(os.environ.get(name, 1)) > 1:
        fix = f'{_ADDRESS}=HOST:PORT of the first process, exported to all'
        sys.exit(f'error: {name}={os.environ[name]}, but {launcher} does not say where the first process is; fix: {fix}')
    return False
  except RuntimeError:
    if arguments:
      raise
    return False  # jax is in use already, as in a notebook, and nobody has said that there are others
  return True


def is_first() -> bool:
  """Whether this process is the one that writes files and shows progress."""
  return jax.process_index() == 0


def from_first(value: Callable[[], T]) -> T:
  """What `value()` gives on the first process, on all of them once it is known; the others do not call it.

  Args:
    value: Of no argument, gives what JSON can hold.
  """
  if jax.process_count() == 1:
    return value()
  text = json.dumps(value()).encode() if is_first() else b''
  with jax.transfer_guard('allow'):
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(text))))
    room = np.zeros(1 << max(8, size.bit_length()), np.uint8)  # few sizes, for each is a program
    room[: len(text)] = np.frombuffer(text, np.uint8)
    told = np.asarray(multihost_utils.broadcast_one_to_all(room), np.uint8)
  return json.loads(told[:size].tobytes())


def any_process(flag: bool) -> bool:
  """Whether the flag is set on any process."""
  if jax.process_count() == 1:
    return flag
  with jax.transfer_guard('allow'):
    return bool(np.any(multihost_utils.process_allgather(np.array(flag))))

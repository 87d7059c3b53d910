"""Runs several processes as one job: it finds them from the environment, shares facts among them, and ends them together.

Every process computes every decision from the same full arrays: which lengths are packed, which groups have equal scores,
whether the gate is open. Facts that only one process knows are broadcast: a signal by `any_process`, once per step, and what
is on disk by `from_first`.
"""

import json
import os
import pathlib
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import jax
import numpy as np
from jax._src import distributed  # has the coordinator's address, which jax has no public API for
from jax.experimental import multihost_utils

T = TypeVar('T')

_ADDRESS, _COUNT, _INDEX = 'JAX_COORDINATOR_ADDRESS', 'JAX_NUM_PROCESSES', 'JAX_PROCESS_ID'
_OMPI_4 = 'OMPI_MCA_orte_hnp_uri'  # jax finds the first process with it
_TOLD_EVERY = 15  # seconds between the lines of a process that waits for others
_TABLES, _ESTABLISHED = (pathlib.Path('/proc/net/tcp'), pathlib.Path('/proc/net/tcp6')), '01'
_SILENCE = 30  # seconds without a sign of life after which a process counts as dead, or is not waited for at the end
_LOST = (
  'Where a connection was lost, another process has ended: its log says why. '
  'The same command on every process goes on from the newest checkpoint.'
)


@contextmanager
def job() -> Iterator[None]:
  """Runs the code inside as part of one job with the other processes, if there are any.

  It is entered once, before devices are used. The processes find each other by `process_arguments`. If one of them fails or
  dies, all end. The failing process ends at once with its own message. The others end when a collective fails or, with jax's
  message, after 30 seconds without a sign of life.
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
  """Returns the arguments of `jax.distributed.initialize` that the environment determines; None for a single process.

  | environment | processes |
  |---|---|
  | `JAX_COORDINATOR_ADDRESS`, `JAX_NUM_PROCESSES` and `JAX_PROCESS_ID` | as these variables say |
  | `JAX_NUM_PROCESSES=1` | this process alone |
  | SLURM | the tasks of the step, which is one task in the shell that `salloc` opens; jax itself would count the allocation |
  | Open MPI 5 | as Open MPI says, with `JAX_COORDINATOR_ADDRESS`, because it no longer gives the first process's address |
  | a TPU pod, GKE, Open MPI 4 | as jax detects them |

  Raises:
    ValueError: The environment does not say enough.
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
  if 'OMPI_COMM_WORLD_SIZE' in environment:  # mpirun may run inside a SLURM step, whose variables then do not count
    count = _whole('OMPI_COMM_WORLD_SIZE', environment['OMPI_COMM_WORLD_SIZE'])
    if count == 1:
      return None
    if _ADDRESS in named:
      return {
        'coordinator_address': named[_ADDRESS],
        'num_processes': count,
        'process_id': _whole('OMPI_COMM_WORLD_RANK', environment['OMPI_COMM_WORLD_RANK']),
        'local_device_ids': [_whole('OMPI_COMM_WORLD_LOCAL_RANK', environment['OMPI_COMM_WORLD_LOCAL_RANK'])],
      }
    if not environment.get(_OMPI_4):
      raise ValueError(_unsaid('OMPI_COMM_WORLD_SIZE', count, 'mpirun'))
    return {}
  if environment.get('SLURM_STEP_NUM_TASKS'):
    count = _whole('SLURM_STEP_NUM_TASKS', environment['SLURM_STEP_NUM_TASKS'])
    return None if count == 1 else {'num_processes': count}
  if _ADDRESS in named:
    raise ValueError(f'{_ADDRESS}={named[_ADDRESS]} alone; fix: {_COUNT} and {_INDEX} beside it, or none of the three')
  return {}


def _unsaid(name: str, count: int, launcher: str) -> str:
  fix = f'{_ADDRESS}=HOST:PORT of the first process, exported to all'
  return f'{name}={count}, but {launcher} does not say where the first process is; fix: {fix}'


def _whole(name: str, value: str) -> int:
  if not value.isdecimal():
    raise ValueError(f'{name}={value!r}: not a whole number of at least 0; fix: such as {name}=2')
  return int(value)


def _initialized(arguments: dict[str, Any] | None) -> bool:
  """Join the other processes; False if there are none."""
  if arguments is None:
    return False
  jax.config.update('jax_enable_preemption_service', False)  # its handler would take the SIGTERM that `stages.loop` answers
  try:
    with _telling():
      jax.distributed.initialize(**arguments, heartbeat_timeout_seconds=_SILENCE, shutdown_timeout_seconds=_SILENCE)
  except ValueError as error:
    if 'coordinator_address' not in str(error):
      raise
    if arguments:
      sys.exit(f'error: {_unsaid("SLURM_STEP_NUM_TASKS", arguments["num_processes"], "srun")}')
    return False
  except RuntimeError:
    if arguments:
      raise
    return False  # jax is already in use, as in a notebook, and no other processes are configured
  return True


@contextmanager
def _telling() -> Iterator[None]:
  """Prints a line at intervals while the processes wait for each other."""
  there, began = threading.Event(), time.monotonic()

  def tell() -> None:
    while not there.wait(_TOLD_EVERY):
      state = distributed.global_state
      message = waiting(state.process_id, state.num_processes, state.coordinator_address, time.monotonic() - began)
      print(message, file=sys.stderr, flush=True)

  threading.Thread(target=tell, daemon=True).start()
  try:
    yield
  finally:
    there.set()


def waiting(index: int, count: int | None, address: str | None, seconds: float) -> str:
  """Returns the message of a process that waits for the others.

  The first process counts the processes that have connected to it, if Linux's connection tables can be read.

  Args:
    index: The index of this process.
    count: The number of expected processes; None while jax does not know it yet.
    address: The address `HOST:PORT` of the first process.
    seconds: The seconds since the wait began.
  """
  after = f'after {seconds:.0f} s; {_COUNT}=1 runs this process alone'
  if count is None or address is None:
    return f'waiting to be told of the other processes, {after}'
  if index:
    return f'waiting for the other processes, {count} in all; this is process {index}, the first is to be at {address}, {after}'
  joined = _connections(address)
  whom = f'{count} in all' if joined is None else f'{joined} of {count} are there'
  return f'waiting for the other processes; {whom} {after}'


def _connections(address: str) -> int | None:
  """Returns how many connections a port of this machine has; None if none can be seen."""
  port, joined = f'{int(address.rpartition(":")[2]):04X}', set()
  for table in _TABLES:
    if table.is_file():
      for line in table.read_text().splitlines()[1:]:
        _, local, remote, state = line.split()[:4]
        if local.endswith(f':{port}') and state == _ESTABLISHED:
          joined.add(remote)
  return len(joined) or None


def is_first() -> bool:
  """Whether this process is the one that writes files and shows progress."""
  return jax.process_index() == 0


def from_first(value: Callable[[], T]) -> T:
  """Calls `value` on the first process only, and returns its result on all processes.

  Args:
    value: A function without arguments whose result JSON can hold.
  """
  if jax.process_count() == 1:
    return value()
  text = json.dumps(value()).encode() if is_first() else b''
  with jax.transfer_guard('allow'):
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(text))))
    room = np.zeros(1 << max(8, size.bit_length()), np.uint8)  # few sizes, because each compiles a program
    room[: len(text)] = np.frombuffer(text, np.uint8)
    told = np.asarray(multihost_utils.broadcast_one_to_all(room), np.uint8)
  return json.loads(told[:size].tobytes())


def any_process(flag: bool) -> bool:
  """Whether the flag is set on any process."""
  if jax.process_count() == 1:
    return flag
  with jax.transfer_guard('allow'):
    return bool(np.any(multihost_utils.process_allgather(np.array(flag))))

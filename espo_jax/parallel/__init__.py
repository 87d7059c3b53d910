"""Handles meshes, shardings, processes, and what a machine can fail at: devices, memory, files.

This room knows nothing about reinforcement learning.
"""

from espo_jax.parallel.devices import DeviceError, find_devices
from espo_jax.parallel.mesh import (
  BATCH,
  constrain,
  gathering,
  make_mesh,
  mesh_shape,
  on_each_device,
  over_batch,
  param_shardings,
  replicated,
)
from espo_jax.parallel.processes import any_process, from_first, is_first, job, process_arguments
from espo_jax.parallel.rows import batch_shards, fetch, lay, my_rows, put, put_rows, take_rows

__all__ = [
  'BATCH',
  'DeviceError',
  'any_process',
  'batch_shards',
  'constrain',
  'fetch',
  'find_devices',
  'from_first',
  'gathering',
  'is_first',
  'job',
  'lay',
  'make_mesh',
  'mesh_shape',
  'my_rows',
  'on_each_device',
  'over_batch',
  'param_shardings',
  'process_arguments',
  'put',
  'put_rows',
  'replicated',
  'take_rows',
]

"""A slice of chips that need not be there: its mesh, and the memory of one of its devices."""

import os

import jax
import ml_collections
from jax.experimental import topologies

from espo_jax import parallel
from espo_jax.compile_check.chips import CHIPS
from espo_jax.compile_check.verdict import GIB
from espo_jax.configs import ConfigError
from espo_jax.parallel.memory import device_bytes

_ALONE = {  # without these, libtpu looks for the TPU machine that it runs on, and allows one process at a time
  'TPU_SKIP_MDS_QUERY': '1',
  'TPU_WORKER_HOSTNAMES': 'localhost',
  'TPU_ACCELERATOR_TYPE': 'none',
  'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',
}


def topology_mesh(config: ml_collections.ConfigDict, topology: str) -> jax.sharding.Mesh:
  """Makes the config's mesh over the chips of a slice such as 'v5p:2x2x2', or over this machine's devices for 'local'.

  Raises:
    ConfigError: There is no such slice, or the mesh does not fit the slice.
    DeviceError: jax finds no device here.
  """
  if topology == 'local':
    devices = parallel.find_devices()
  else:
    chip = topology.partition(':')[0]
    if chip not in CHIPS:
      known = ', '.join(CHIPS)
      raise ConfigError([f'--topology={topology}: unknown chip {chip!r}; fix: one of {known}, as in v5p:2x2x2, or local'])
    for variable, value in _ALONE.items():
      os.environ.setdefault(variable, value)
    try:
      devices = topologies.get_topology_desc(topology, platform='tpu').devices
    except Exception as error:  # libtpu is missing, or it knows no such slice
      fix = 'fix: pip install libtpu, and a slice that exists, such as v5p:2x2x2 or v5e:4x4'
      raise ConfigError([f'--topology={topology}: {str(error).splitlines()[0]}; {fix}']) from error
    parallel.find_devices()  # constants are made on this machine's devices
  try:
    return parallel.make_mesh(**config.mesh.to_dict(), devices=devices)
  except ValueError as error:
    raise ConfigError([str(error)]) from error


def memory_limit(topology: str) -> float:
  """Returns the memory per device in GiB: that of the chip or the GPU, or on a CPU an equal share of the machine's."""
  if topology != 'local':
    return CHIPS[topology.partition(':')[0]].memory
  return device_bytes() / GIB

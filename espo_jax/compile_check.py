"""Compile the rollout of an experiment for a TPU slice that is not there, and say whether it fits.

  pip install libtpu   # compiles without a TPU; part of the extra [tpu]
  python -m espo_jax.compile_check --config=experiments/espo_r1_distill_qwen_7b.py --topology=v5p:2x2x2
    --config.model.path=models/r1-7b   # its config.json is enough

The mesh is the config's. What is printed is per chip. It exits with 1 where the program does not fit the chip's memory.
"""

import os
import sys
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
from absl import app, flags
from jax.experimental import topologies
from ml_collections import config_flags

from espo_jax import parallel, rollout, stops
from espo_jax.configs import ConfigError, model_config, parse_flags, trains_critic
from espo_jax.model import ActorCritic
from espo_jax.types import Prompts

_CONFIG = config_flags.DEFINE_config_file('config', None, 'The experiment, a Python file with get_config().')
_TOPOLOGY = flags.DEFINE_string('topology', 'v5p:2x2x2', 'The slice: a chip of v5e, v5p, v6e and how many along each axis.')
HBM = {'v5e': 16, 'v5p': 95, 'v6e': 32}  # GiB a chip, as Google Cloud's documentation lists them
GIB = 2**30
FIX = 'fewer rollout.slots, or larger mesh axes'


class Compiled(NamedTuple):
  """What the compiler says of a program, bytes a chip."""

  arguments: int
  temporaries: int  # with what the program keeps between its steps, such as the caches
  outputs: int
  caches: int  # part of the temporaries


def topology_mesh(config: ml_collections.ConfigDict, topology: str) -> jax.sharding.Mesh:
  """The config's mesh over the chips of a slice such as 'v5p:2x2x2'.

  Raises:
    ConfigError: There is no such slice, or the mesh does not fit it.
  """
  chip = topology.partition(':')[0]
  if chip not in HBM:
    raise ConfigError([f'--topology={topology}: unknown chip {chip!r}; fix: one of {", ".join(HBM)}, as in v5p:2x2x2'])
  try:
    devices = topologies.get_topology_desc(topology, platform='tpu').devices
  except Exception as error:  # libtpu is missing, or it knows no such slice
    fix = 'fix: pip install libtpu, and a slice that exists, such as v5p:2x2x2 or v5e:4x4'
    raise ConfigError([f'--topology={topology}: {str(error).splitlines()[0]}; {fix}']) from error
  try:
    return parallel.make_mesh(**config.mesh.to_dict(), devices=devices)
  except ValueError as error:
    raise ConfigError([str(error)]) from error


def compile_rollout(config: ml_collections.ConfigDict, mesh: jax.sharding.Mesh, vocab_size: int = 32_768) -> Compiled:
  """Compile the rollout as training would run it, from shapes alone.

  Args:
    config: The experiment.
    mesh: Over devices that need not be there.
    vocab_size: Where the config names no `model.path`.
  """
  r, critic = config.rollout, trains_critic(config)
  shape = model_config(config, vocab_size)
  model = ActorCritic(shape, separate_critic=critic and config.critic.kind == 'separate', critic_free=not critic)
  rule = stops.espo()
  prompts = r.prompts // r.parts
  whole, rows = parallel.replicated(mesh), parallel.over_batch(mesh)

  boxed = jax.eval_shape(model.init_boxed, jax.random.key(0))
  arguments = (
    model,
    jax.tree.map(
      lambda x, sharding: _array(x.shape, x.dtype, sharding), nn.unbox(boxed), parallel.param_shardings(boxed, mesh)
    ),
    rule,
    jax.tree.map(lambda x: _array(x.shape, x.dtype, whole), jax.eval_shape(lambda: rule.init(1).adaptive)),
    Prompts(
      _array((prompts, r.prompt_width), jnp.int32, rows),
      _array((prompts,), jnp.int32, rows),
      _array((prompts,), jnp.uint32, rows),
    ),
    _array((), jax.random.key(0).dtype, whole),
  )
  options = {
    'samples': r.samples,
    'horizon': r.horizon,
    'end_tokens': (0,),
    'sampling': rollout.Sampling(*(_array((), dtype, whole) for dtype in (jnp.float32, jnp.float32, jnp.int32, jnp.float32))),
    'slots': r.slots,
    'scan_length': r.scan_length,
    'critic_every': config.critic.every,
    'mesh': mesh,
  }
  slots = min(r.slots or r.prompts * r.samples, r.prompts * r.samples)
  if r.serial.inducer:  # of which no more is needed here than its tokens are at most
    serial = rollout.Serial((1,) * len(r.serial.inducer.encode()), r.serial.answer_tokens)
    lowered = rollout.generate_serial.lower(*arguments, serial=serial, **options)
    exits = prompts * (r.samples - 1)
    slots = prompts + min(r.slots or exits, exits)  # the full responses' caches beside those of the early exits
  else:
    lowered = rollout.generate.lower(*arguments, shadow_share=_array((), jnp.float32, whole), **options)
  memory: Any = lowered.compile().memory_analysis()
  columns = r.prompt_width + -(-r.horizon // config.critic.every) * config.critic.every
  caches = jax.tree.leaves(jax.eval_shape(lambda: model.init_caches(slots, columns)))
  per_chip = sum(x.size * x.dtype.itemsize for x in caches) // mesh.size
  return Compiled(
    memory.argument_size_in_bytes, memory.temp_size_in_bytes, memory.output_size_in_bytes - memory.alias_size_in_bytes, per_chip
  )


def report(program: Compiled, hbm: int) -> list[str]:
  """The lines to print; the last one says whether it fits `hbm` GiB."""
  beside = program.temporaries - program.caches
  peak = (program.arguments + program.temporaries + program.outputs) / GIB
  verdict = 'fits' if peak <= hbm else f'does not fit; fix: {FIX}'
  return [
    f'arguments {program.arguments / GIB:.2f} GiB, outputs {program.outputs / GIB:.2f} GiB',
    f'caches {program.caches / GIB:.2f} GiB, other temporaries {beside / GIB:.2f} GiB, {beside / program.caches:.1%} of them',
    f'peak {peak:.2f} GiB of {hbm} GiB a chip: {verdict}',
  ]


def _array(shape: tuple[int, ...], dtype: Any, sharding: jax.sharding.NamedSharding) -> Any:
  """An array that is only described."""
  return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)


def main(argv: list[str]) -> None:
  """The command."""
  if len(argv) > 1 or not _CONFIG.value:
    raise app.UsageError('--config=FILE, such as experiments/quickstart.py, and flags alone')
  for variable, value in (('TPU_SKIP_MDS_QUERY', '1'), ('TPU_WORKER_HOSTNAMES', 'localhost'), ('TPU_ACCELERATOR_TYPE', 'none')):
    os.environ.setdefault(variable, value)  # else libtpu looks for the machine it is on
  try:
    mesh = topology_mesh(_CONFIG.value, _TOPOLOGY.value)
    lines = report(compile_rollout(_CONFIG.value, mesh), HBM[_TOPOLOGY.value.partition(':')[0]])
  except ConfigError as error:
    sys.exit(f'error: {error}')
  except jax.errors.JaxRuntimeError as error:
    if 'RESOURCE_EXHAUSTED' not in str(error):
      raise
    sys.exit(f'error: the rollout does not fit {_TOPOLOGY.value}: {str(error).splitlines()[0]}; fix: {FIX}')
  print('\n'.join([f'rollout on {_TOPOLOGY.value}, mesh {dict(mesh.shape)}:', *lines]))
  if not lines[-1].endswith('fits'):
    sys.exit(1)


if __name__ == '__main__':
  app.run(main, flags_parser=parse_flags)

"""Makes the first line that a run prints: the devices, the model and the memory that its state takes."""

import math
import pathlib

import jax

from espo_jax import stops
from espo_jax.experiment import Experiment
from espo_jax.parallel.memory import device_bytes
from espo_jax.stages.calibration import calibration_optimizer
from espo_jax.stages.rl import reinforcement_learner
from espo_jax.stages.warm_start import supervised_learner

_UNITS = ((2**30, 'GiB'), (2**20, 'MiB'), (2**10, 'KiB'))

_ON_CPU = {'float32': ': a CPU converts bfloat16', 'bfloat16': ', which a CPU converts: float32 is faster'}


def headline(exp: Experiment, workdir: pathlib.Path) -> str:
  """Returns the line with device, model, parameters, dtype, memory, seed and folder. It needs no computation on a device.

  The line gives the memory of parameters and optimizer state on one device, and the device's total memory. Caches,
  gradients and activations come on top of the former.
  """
  c, shape = exp.config, exp.model.config
  params = exp.abstract_params()
  count = sum(math.prod(x.shape) for x in jax.tree.leaves(params))
  device = jax.devices()[0]
  model = c.model.path or f'{shape.num_layers} layers of {shape.hidden_size}'
  kept, there = written_size(kept_bytes(exp, params)), written_size(device_bytes())
  why = _ON_CPU.get(shape.dtype, '') if device.platform == 'cpu' else ''
  return (
    f'{exp.mesh.size} of {jax.device_count()} x {device.device_kind}; model {model}, {count:,} parameters in '
    f'{shape.param_dtype}, with the optimizer {kept} of {there} a device; '
    f'computes in {shape.dtype}{why}; seed {c.seed}; {workdir}'
  )


def kept_bytes(exp: Experiment, params: object) -> int:
  """Returns the bytes of parameters and optimizer state on one device. Moments are sharded like their parameters.

  Args:
    exp: The experiment.
    params: The shapes, dtypes and shardings of the experiment's parameters.
  """
  c = exp.config
  if 'rl' in c.stages:
    optimizer = reinforcement_learner(exp, stops.never()).optimizer
  elif 'calibration' in c.stages:
    optimizer = calibration_optimizer(exp)
  else:
    optimizer = supervised_learner(exp).optimizer
  own = sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(params))
  whole = sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(params))
  state = sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(jax.eval_shape(optimizer.init, params)))
  return own + (0 if c.learner.offload_optimizer else round(state * own / whole))


def written_size(count: float) -> str:
  """Returns a number of bytes in the largest binary unit that it reaches, such as '3.7 GiB'."""
  for unit, name in _UNITS:
    if count >= unit:
      return f'{count / unit:.1f} {name}'
  return f'{count:.0f} bytes'

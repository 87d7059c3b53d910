"""Low-rank adapters (Hu et al. 2021): what is frozen while they are there, and folding them into the kernels."""

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import PyTree

from espo_jax.model.config import ModelConfig
from espo_jax.model.decoder import Params


def merge(config: ModelConfig, params: Params) -> Params:
  """The parameters with every adapter added to its kernel: the same function without adapters. The sum is taken in float32.

  Args:
    config: The model, which says the adapters' scale.
    params: Those of its `Decoder`.
  """
  flat = flatten_dict(params)
  merged = {path: x for path, x in flat.items() if not path[-1].startswith('lora')}
  for path, a in flat.items():
    if path[-1] == 'lora_a':
      kernel, b = (*path[:-1], 'kernel'), flat[(*path[:-1], 'lora_b')]
      merged[kernel] = _add(flat[kernel], a, b, config.lora.alpha / config.lora.rank)
  return unflatten_dict(merged)


def frozen(params: Params) -> PyTree[bool]:
  """True on what does not learn: beside adapters everything but them and the value head, without adapters nothing."""
  flat = flatten_dict(params)
  adapted = any(path[-1] == 'lora_a' for path in flat)
  return unflatten_dict({path: adapted and not (path[-1].startswith('lora') or 'value' in path) for path in flat})


def hold_frozen(params: Params) -> Params:
  """The parameters with no gradient to those that are frozen."""
  return jax.tree.map(lambda x, held: jax.lax.stop_gradient(x) if held else x, params, frozen(params))


@jax.jit
def _add(kernel: jax.Array, a: jax.Array, b: jax.Array, scale: jax.Array | float) -> jax.Array:
  update = jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST) * scale
  return (kernel.astype(jnp.float32) + update).astype(kernel.dtype)

"""Low-rank adapters (Hu et al. 2021): the parameters that are frozen with them, and the merge into the kernels.

The adapters are eight lines of `layers.Projection` and not qwix, which patches `jax.lax.dot_general` and silently adds
nothing where a layer multiplies in another way. Speed does not decide between the two: a gradient step of a 6-layer decoder
took 0.569 s against 0.568 s with qwix 0.1.8 unrolled, and 0.553 s against 0.559 s scanned (2 cores, best of 10,
`scripts/measure_lora.py`).
"""

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import PyTree

from espo_jax.model.config import ModelConfig
from espo_jax.model.decoder import Params


def merge(config: ModelConfig, params: Params) -> Params:
  """The parameters with every adapter merged into its kernel, which give the same model. The sum is computed in float32.

  Args:
    config: The shape of the model, which has the adapters' scale.
    params: The parameters of the `Decoder`.
  """
  flat = flatten_dict(params)
  merged = {path: x for path, x in flat.items() if not path[-1].startswith('lora')}
  for path, a in flat.items():
    if path[-1] == 'lora_a':
      kernel, b = (*path[:-1], 'kernel'), flat[(*path[:-1], 'lora_b')]
      merged[kernel] = _add(flat[kernel], a, b, config.lora.alpha / config.lora.rank)
  return unflatten_dict(merged)


def frozen(params: PyTree, *, exits_alone: bool = False) -> PyTree[bool]:
  """True on frozen parameters. With adapters these are all except adapters, value head and exit heads; otherwise none.

  Args:
    params: The parameters of a `Decoder` or of an `ActorCritic`.
    exits_alone: Whether only the exit heads of the policy are trained; this does not freeze a critic.
  """
  flat = flatten_dict(params)
  adapted = any(path[-1] == 'lora_a' for path in flat)

  def held(path: tuple[str, ...]) -> bool:
    if 'value' in path or 'exit_heads' in path:
      return False
    return (exits_alone and path[0] != 'critic') or (adapted and not path[-1].startswith('lora'))

  return unflatten_dict({path: held(path) for path in flat})


def split_frozen(params: PyTree, *, exits_alone: bool = False) -> tuple[PyTree, PyTree]:
  """The trained parameters and the frozen ones, two trees of which each has None in the places of the other.

  A gradient by the first tree alone has no arrays for frozen parameters.
  """
  held = frozen(params, exits_alone=exits_alone)
  trained = jax.tree.map(lambda x, held: None if held else x, params, held)
  return trained, jax.tree.map(lambda x, held: x if held else None, params, held)


def join_frozen(trained: PyTree, held: PyTree) -> PyTree:
  """The parameters that `split_frozen` split."""
  return jax.tree.map(lambda x, y: y if x is None else x, trained, held, is_leaf=lambda x: x is None)


@jax.jit
def _add(kernel: jax.Array, a: jax.Array, b: jax.Array, scale: jax.Array | float) -> jax.Array:
  update = jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST) * scale
  return (kernel.astype(jnp.float32) + update).astype(kernel.dtype)

"""The key-value cache, written in place column by column."""

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from espo_jax.model.config import ModelConfig

Layers = tuple[Float[Array, 'B kv_heads C head_dim'], ...] | Float[Array, 'layers B kv_heads C head_dim']


class Cache(flax.struct.PyTreeNode):
  """Keys and values of the tokens seen so far. Column `c` of every row is written at the same step.

  Unrolled layers keep an array each, so that a step writes one column of each and copies nothing; scanned layers stack them.
  """

  keys: Layers
  values: Layers
  valid: Bool[Array, 'B C']  # columns that hold a token; a prompt's left padding never does
  column: Int[Array, '']  # the next column to write


def init_cache(config: ModelConfig, batch: int, columns: int) -> Cache:
  """An empty cache of `columns` tokens for `batch` rows."""
  shape = (batch, config.num_kv_heads, columns, config.head_dim)

  def side() -> Layers:
    if config.scan_layers:
      return jnp.zeros((config.num_layers, *shape), config.activation_dtype)
    return tuple(jnp.zeros(shape, config.activation_dtype) for _ in range(config.num_layers))

  return Cache(side(), side(), valid=jnp.zeros((batch, columns), bool), column=jnp.zeros((), jnp.int32))


def repeat_rows(cache: Cache, times: int) -> Cache:
  """Each row `times` times, group-major: a prompt is prefilled once and serves all its samples."""

  def repeat(layers: Layers) -> PyTree[Array]:
    return jax.tree.map(lambda x: jnp.repeat(x, times, axis=x.ndim - 4), layers)

  return cache.replace(keys=repeat(cache.keys), values=repeat(cache.values), valid=jnp.repeat(cache.valid, times, axis=0))

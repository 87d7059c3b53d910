"""Attention over whole sequences by jax's splash kernel for TPU (Pallas), which never writes the scores to memory.

The kernel computes the blocks of scores that the causal mask or the window reaches, and masks segments inside of them. The
gradient has two kernels, one for the queries and one for keys and values, and each computes the scores again. No number here
was measured on a TPU. The tests run the kernels interpreted, and compile them for TPU.
"""

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.splash_attention import (
  BlockSizes,
  CausalMask,
  LocalMask,
  MultiHeadMask,
  SegmentIds,
  make_splash_mha,
)
from jaxtyping import Array, Float, Int

_BLOCKS = (1024, 512, 256, 128)  # columns; a larger block reads keys and values less often
_AT_A_TIME = 512  # columns of a block whose scores are in the scratchpad at a time
_SPARE = 8  # columns for each column of padding that a larger block may add


def block(length: int) -> int:
  """Returns the number of columns of the kernel's blocks for a sequence, which is padded to a multiple of them."""
  return next((b for b in _BLOCKS if -length % b * _SPARE <= length), _BLOCKS[-1])


def attend(
  queries: Float[Array, 'B S J G K'],
  keys: Float[Array, 'J B S K'],
  values: Float[Array, 'J B S K'],
  segments: Int[Array, 'B S'],
  window: int,
) -> Float[Array, 'B S J G K']:
  """Each token attends to the tokens of its own segment up to itself. Padding attends to the padding before it.

  Args:
    queries: The queries of the tokens, by the key-value head that they read.
    keys: The keys of the same tokens.
    values: The values of the same tokens.
    segments: The number of the sequence that each token belongs to; 0 is padding.
    window: The most tokens that a token attends to, itself included; 0 for no limit.
  """
  batch, length, kv_heads, group, head_dim = queries.shape
  size = block(length)
  padding = -length % size

  def laid(x: Array, *axes: int) -> Array:  # to [B, heads, S, K], with padding
    x = x.transpose(axes).reshape(batch, -1, length, head_dim)
    return jnp.pad(x, ((0, 0), (0, 0), (0, padding), (0, 0)))

  scaled = (queries.astype(jnp.float32) * head_dim**-0.5).astype(queries.dtype)  # the kernel does not scale the products
  shape, heads = (length + padding, length + padding), kv_heads * group
  mask = LocalMask(shape, (window - 1, 0), 0) if window else CausalMask(shape)
  once = min(size, _AT_A_TIME)
  sizes = BlockSizes(size, size, once, size, size, once, size, size)
  kernel = make_splash_mha(MultiHeadMask([mask] * heads), head_shards=1, q_seq_shards=1, block_sizes=sizes)
  own = jnp.pad(segments, ((0, 0), (0, padding)))
  out = jax.vmap(kernel)(laid(scaled, 0, 2, 3, 1, 4), laid(keys, 1, 0, 2, 3), laid(values, 1, 0, 2, 3), SegmentIds(own, own))
  return out[:, :, :length].reshape(batch, kv_heads, group, length, head_dim).transpose(0, 3, 1, 2, 4)

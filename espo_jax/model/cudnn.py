"""Attention of some queries by cuDNN's fused kernel for GPUs, which never writes the scores to memory.

`jax.nn.dot_product_attention` describes a packing to cuDNN by a mask alone: its lengths allow one segment per sequence. A mask
has an entry for each query and key, and all heads share it. `espo_jax.model.attention` therefore calls the kernel for some
queries at a time, so that memory grows linearly with the length. With a mask cuDNN computes all scores, also those after a
query. The kernel has never run here: the tests lower it, and compute its arguments by XLA.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def attend(
  queries: Float[Array, 'B S H K'],
  keys: Float[Array, 'J B C K'],
  values: Float[Array, 'J B C K'],
  seen: Bool[Array, 'B S C'],
) -> Float[Array, 'B S H K']:
  """Each query attends to the keys that it sees. A query that sees none gets a finite result.

  Args:
    queries: The queries; query head `h` reads key-value head `h // (H / J)`.
    keys: The keys.
    values: The values.
    seen: Whether each query sees each key.
  """
  steps, columns = seen.shape[1] % 2, seen.shape[2] % 2  # the gradient needs even numbers of both
  queries = jnp.pad(queries, ((0, 0), (0, steps), (0, 0), (0, 0)))
  keys, values = (jnp.pad(x, ((0, 0), (0, 0), (0, columns), (0, 0))).transpose(1, 2, 0, 3) for x in (keys, values))
  mask = jnp.pad(seen, ((0, 0), (0, steps), (0, columns)))[:, None]
  out = jax.nn.dot_product_attention(queries, keys, values, mask=mask, implementation='cudnn')
  return out[:, : seen.shape[1]]

"""Attention of one new token per row over the cache, by jax's paged kernels for TPU and GPU (Pallas).

The columns of a row are its pages, in order, so the kernels read only the pages that each row uses. Use unrolled layers with
them, because a kernel gets a copy of its layer out of a stack. We have measured neither kernel.

The tests run the kernels interpreted and lower them. `model.paged_kernels` is off by default until `scripts/bench_gpu.py` has
timed them.
"""

import math

import jax.numpy as jnp
from jax.experimental.pallas.ops.gpu.paged_attention import paged_attention as gpu_kernel
from jax.experimental.pallas.ops.tpu.paged_attention import paged_attention as tpu_kernel
from jaxtyping import Array, Float, Int

COLUMNS = 512  # a cache for the kernels has a multiple of this many
_PAGE = 128  # columns
_AT_A_TIME = COLUMNS // _PAGE  # pages that the TPU kernel fetches together
_SPLITS = 16  # the most parts of a row that the GPU kernel reads in parallel


def on_tpu(
  queries: Float[Array, 'B H K'],
  keys: Float[Array, 'J B C K'],
  values: Float[Array, 'J B C K'],
  counts: Int[Array, 'B'],
) -> Float[Array, 'B H K']:
  """Each row's query attends to the first `counts` columns of its cache; `counts` is at least 1. Products are in bfloat16."""
  pages, table = _paged(keys, values)
  return tpu_kernel(_scaled(queries), *pages, counts, table, pages_per_compute_block=_AT_A_TIME)


def on_gpu(
  queries: Float[Array, 'B H K'],
  keys: Float[Array, 'J B C K'],
  values: Float[Array, 'J B C K'],
  counts: Int[Array, 'B'],
) -> Float[Array, 'B H K']:
  """The same attention as `on_tpu`, with products in the dtype of the arrays."""
  pages, table = _paged(keys, values)
  splits = math.gcd(table.shape[1], _SPLITS)
  return gpu_kernel(_scaled(queries), *pages, table, counts, pages_per_compute_block=1, k_splits=splits)


def _paged(keys: Float[Array, 'J B C K'], values: Float[Array, 'J B C K']) -> tuple[tuple[Array, Array], Int[Array, 'B pages']]:
  """Keys and values as pages, without a copy, and the table of each row's pages."""
  heads, rows, columns, head_dim = keys.shape
  table = jnp.arange(rows * columns // _PAGE, dtype=jnp.int32).reshape(rows, -1)
  return (keys.reshape(heads, -1, _PAGE, head_dim), values.reshape(heads, -1, _PAGE, head_dim)), table


def _scaled(queries: Float[Array, 'B H K']) -> Float[Array, 'B H K']:
  """The queries scaled by `head_dim**-0.5`, because the kernels do not scale the products."""
  return (queries.astype(jnp.float32) * queries.shape[-1] ** -0.5).astype(queries.dtype)

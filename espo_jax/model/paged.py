"""Attention of one new token a row over the cache, by the paged kernels that jax brings for TPU and GPU (Pallas).

A row's columns are its pages, in their order, so the kernels read what each row has and no more. Unrolled layers suit them: of
a stack a kernel gets a copy of its layer. Not measured by us on either.

The tests run the kernels interpreted and lower them. `model.paged_kernels` is off by default until `scripts/bench_gpu.py` has
timed them.
"""

import math

import jax.numpy as jnp
from jax.experimental.pallas.ops.gpu.paged_attention import paged_attention as gpu_kernel
from jax.experimental.pallas.ops.tpu.paged_attention import paged_attention as tpu_kernel
from jaxtyping import Array, Float, Int

COLUMNS = 512  # a cache that the kernels read has a multiple of these
_PAGE = 128  # columns
_AT_A_TIME = COLUMNS // _PAGE  # pages that the TPU's kernel fetches together
_SPLITS = 16  # parts of a row that the GPU's kernel reads in parallel, at most


def on_tpu(
  queries: Float[Array, 'B H K'],
  keys: Float[Array, 'J B C K'],
  values: Float[Array, 'J B C K'],
  counts: Int[Array, 'B'],
) -> Float[Array, 'B H K']:
  """Each row's query attends to the first `counts` columns of its cache, at least one. Products are in bfloat16."""
  pages, table = _paged(keys, values)
  return tpu_kernel(_scaled(queries), *pages, counts, table, pages_per_compute_block=_AT_A_TIME)


def on_gpu(
  queries: Float[Array, 'B H K'],
  keys: Float[Array, 'J B C K'],
  values: Float[Array, 'J B C K'],
  counts: Int[Array, 'B'],
) -> Float[Array, 'B H K']:
  """As `on_tpu`, with products in the arrays' own type."""
  pages, table = _paged(keys, values)
  splits = math.gcd(table.shape[1], _SPLITS)
  return gpu_kernel(_scaled(queries), *pages, table, counts, pages_per_compute_block=1, k_splits=splits)


def _paged(keys: Float[Array, 'J B C K'], values: Float[Array, 'J B C K']) -> tuple[tuple[Array, Array], Int[Array, 'B pages']]:
  """Both sides as pages, which copies nothing, and each row's pages."""
  heads, rows, columns, head_dim = keys.shape
  table = jnp.arange(rows * columns // _PAGE, dtype=jnp.int32).reshape(rows, -1)
  return (keys.reshape(heads, -1, _PAGE, head_dim), values.reshape(heads, -1, _PAGE, head_dim)), table


def _scaled(queries: Float[Array, 'B H K']) -> Float[Array, 'B H K']:
  """The kernels take the products as they are."""
  return (queries.astype(jnp.float32) * queries.shape[-1] ** -0.5).astype(queries.dtype)

"""Functions of hidden states whose logits would not fit in memory together.

Logits are far larger than the states that they come from: of Qwen2.5's vocabulary, 441 tokens have 256 MiB of them.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array


def by_chunk(function: Callable[..., Any], chunk: int, *xs: Array, recompute: bool = True) -> Any:
  """`function` of some columns of all sequences at a time.

  Args:
    function: A function from arrays `[B, C, ...]` to a tree of arrays `[B, C]`.
    chunk: The most tokens at a time. A chunk has whole columns, so that sequences stay on their devices, and at least one.
    *xs: The arrays `[B, W, ...]`.
    recompute: Whether the gradient recomputes each chunk. A function whose own gradient does so needs it not.

  Returns:
    A tree of arrays `[B, W]`.
  """
  rows, width = xs[0].shape[:2]
  columns = max(1, chunk // rows)
  if columns >= width:
    return function(*xs)

  def split(x: Array) -> Array:  # to [chunks, B, columns, ...]
    x = jnp.pad(x, [(0, 0), (0, -width % columns)] + [(0, 0)] * (x.ndim - 2))
    return x.reshape(rows, -1, columns, *x.shape[2:]).swapaxes(0, 1)

  one = jax.checkpoint(function) if recompute else function
  chunks = jax.lax.map(lambda parts: one(*parts), tuple(split(x) for x in xs))
  return jax.tree.map(lambda x: x.swapaxes(0, 1).reshape(rows, -1)[:, :width], chunks)

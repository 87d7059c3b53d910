"""Packs the rows of a batch into few sequences, so that an update does not compute the padding of short rows.

A sequence holds several rows as segments. Few widths of a sequence are tried, and the number of sequences is rounded up,
because the compiler makes a program for each shape. Log-probabilities are unpacked into rows; logits never are.
"""

from collections.abc import Callable
from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Int, Integer, PyTree

from espo_jax import parallel


class Packing(flax.struct.PyTreeNode):
  """The places of the tokens of `N` rows in `B` sequences of `W` columns. A row is a prompt and a response without padding.

  Packings of the same shape may be stacked along leading axes.
  """

  row: Int[Array | np.ndarray, '*parts B W']  # the row whose token is there
  index: Int[Array | np.ndarray, '*parts B W']  # the token's index in its row, from the first prompt token
  real: Bool[Array | np.ndarray, '*parts B W']  # whether there is a token
  sequence: Int[Array | np.ndarray, '*parts N']  # the sequence that holds the row
  start: Int[Array | np.ndarray, '*parts N']  # the column of the row's first token

  @property
  def segments(self) -> Int[Array, '*parts B W']:
    """The row's number plus 1 on its tokens, 0 where there is no token."""
    return jnp.where(self.real, self.row + 1, 0)


def unpacked(prompt_lengths: Int[Array, 'N'], horizon: int, width: int) -> Packing:
  """Returns a packing with one sequence per row, which includes all `horizon` response columns.

  Args:
    prompt_lengths: The number of prompt tokens of each row.
    horizon: The number of columns of a response.
    width: The number of columns of a sequence, at least the longest prompt plus `horizon`.
  """
  rows = jnp.arange(prompt_lengths.shape[0])
  shape = (prompt_lengths.shape[0], width)
  index = jnp.broadcast_to(jnp.arange(width), shape)
  real = index < prompt_lengths[:, None] + horizon
  return Packing(jnp.broadcast_to(rows[:, None], shape), index, real, rows, jnp.zeros_like(rows))


def pack(
  lengths: Integer[np.ndarray, 'parts N'],
  width: int,
  *,
  sizes: int,
  multiple: int,
  widths: int,
  cost: Callable[[int], float],
) -> Packing:
  """Packs the rows of each part into sequences of that width for which the columns of all sequences cost the least.

  The widths that are tried lie evenly between the half and the double of `width`.

  Args:
    lengths: The number of tokens of each row, prompt included, at most `width`; 0 for a row that takes up no room.
    width: The number of columns that the longest possible row takes.
    sizes: How many sizes there are between a number of sequences and its double. The number of sequences is rounded up to a
      size, and each size of each width compiles a program. With 1 there is one sequence of `width` columns per row.
    multiple: The number of devices that sequences are split over; the number of sequences is a multiple of it.
    widths: The number of widths that are tried; 1 for `width` alone.
    cost: The cost of a column in a sequence of a width. It grows with the width, because attention does.

  Returns:
    The stacked packings of the parts. All have the number of sequences that the largest part needs.
  """
  lengths = lengths.astype(np.int64)  # narrow integers would overflow in sums and negation
  evenly = np.ceil(np.linspace(0.5, 2.0, widths) * width).astype(int).tolist() if min(widths, sizes) > 1 else [width]
  tried = [_Fitted(its, *_fit(lengths, its)) for its in evenly if its >= lengths.max(initial=1)]

  def total(fitted: _Fitted) -> int:
    """Returns the number of sequences, rounded up."""
    most = -(-lengths.shape[1] // multiple) * multiple
    step = -(-(1 << fitted.used.bit_length() - 1) // sizes)
    step = most if sizes == 1 else -(-step // multiple) * multiple
    return min(-(-fitted.used // step) * step, most)

  best = min(tried, key=lambda fitted: total(fitted) * fitted.width * cost(fitted.width))
  return _placed(lengths, best, total(best))


class _Fitted(NamedTuple):
  """The sequence and the first column of each row, `[parts, N]`, and the number of sequences in use, for a width."""

  width: int
  sequence: np.ndarray
  start: np.ndarray
  used: int


def _fit(lengths: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray, int]:
  """Fits rows by first fit: longest first, each into the first sequence that has room for it."""
  parts, count = lengths.shape
  sequence, start = np.zeros((2, parts, count), np.int32)
  used = 1  # also where no row has a token
  for part in range(parts):
    taken = np.zeros(count, np.int64)  # columns of each sequence
    for row in np.argsort(-lengths[part], kind='stable'):
      chosen = int(np.argmax(taken + lengths[part, row] <= width))
      sequence[part, row], start[part, row] = chosen, taken[chosen]
      taken[chosen] += lengths[part, row]
    used = max(used, int((taken > 0).sum()))
  return sequence, start, used


def _placed(lengths: np.ndarray, fitted: _Fitted, total: int) -> Packing:
  """Returns the packing that puts the rows where they were fitted."""
  parts, count = lengths.shape
  row, index = np.zeros((2, parts, total, fitted.width), np.int32)
  real = np.zeros((parts, total, fitted.width), bool)
  for part in range(parts):
    for n in range(count):
      first = fitted.start[part, n]
      place = (part, fitted.sequence[part, n], slice(first, first + lengths[part, n]))
      row[place], index[place], real[place] = n, np.arange(lengths[part, n]), True
  return Packing(row, index, real, fitted.sequence, fitted.start)


def put_packing(packing: Packing, mesh: jax.sharding.Mesh) -> Packing:
  """Puts stacked packings on the mesh."""
  return jax.tree.map(parallel.put, packing, packing_shardings(mesh))


def packing_shardings(mesh: jax.sharding.Mesh) -> PyTree[NamedSharding]:
  """Returns the shardings of stacked packings: sequences are split over the batch axes, and arrays of rows replicated."""
  split, whole = NamedSharding(mesh, PartitionSpec(None, *parallel.BATCH)), parallel.replicated(mesh)
  return Packing(row=split, index=split, real=split, sequence=whole, start=whole)  # type: ignore[arg-type]


def minibatches(
  seed: int, step: int, rows: int, epochs: int, count: int, keep: Bool[np.ndarray, 'N'] | None = None
) -> np.ndarray:
  """Draws row indices `int32[epochs * count, rows / count]`. Each epoch is a permutation by (seed, step, epoch).

  Args:
    seed: The seed of the run.
    step: The number of the update.
    rows: The number of rows.
    epochs: The number of passes.
    count: The number of minibatches per pass.
    keep: Whether each row is trained on. The minibatches of a pass get equal numbers of such rows, up to one. None for all.
  """
  order = [np.random.default_rng([seed, step, epoch]).permutation(rows) for epoch in range(epochs)]
  if keep is not None and not keep.all():
    order = [its[np.argsort(~keep[its], kind='stable')].reshape(-1, count).T for its in order]  # dealt out in turn
  return np.concatenate(order).reshape(epochs * count, rows // count).astype(np.int32)

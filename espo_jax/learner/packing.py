"""Rows of a batch packed into few sequences, so that an update does not pay for the columns behind short rows.

A sequence holds several rows as segments. The number of sequences is rounded up, because the compiler makes a program for
each number. Log-probabilities are unpacked into rows; logits never are.
"""

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Int, Integer, PyTree

from espo_jax import parallel


class Packing(flax.struct.PyTreeNode):
  """Where the tokens of `N` rows stand in `B` sequences of `W` columns. A row is its prompt and its response, without padding.

  Several packings of the same shape may be stacked in front.
  """

  row: Int[Array | np.ndarray, '*parts B W']  # whose token stands there
  index: Int[Array | np.ndarray, '*parts B W']  # which of the row's tokens, the prompt's first is 0
  real: Bool[Array | np.ndarray, '*parts B W']  # whether one does
  sequence: Int[Array | np.ndarray, '*parts N']  # that holds the row
  start: Int[Array | np.ndarray, '*parts N']  # the column of its first token

  @property
  def segments(self) -> Int[Array, '*parts B W']:
    """A number a row, 0 where there is no token."""
    return jnp.where(self.real, self.row + 1, 0)


def unpacked(prompt_lengths: Int[Array, 'N'], horizon: int, width: int) -> Packing:
  """A sequence a row, each with all of its `horizon` columns.

  Args:
    prompt_lengths: The number of prompt tokens of each row.
    horizon: Columns of a response.
    width: Columns of a sequence, at least those of any prompt and its response.
  """
  rows = jnp.arange(prompt_lengths.shape[0])
  shape = (prompt_lengths.shape[0], width)
  index = jnp.broadcast_to(jnp.arange(width), shape)
  real = index < prompt_lengths[:, None] + horizon
  return Packing(jnp.broadcast_to(rows[:, None], shape), index, real, rows, jnp.zeros_like(rows))


def pack(lengths: Integer[np.ndarray, 'parts N'], width: int, *, sizes: int, multiple: int) -> Packing:
  """Pack each part's rows: the longest first, each into the first sequence that has room for it.

  Args:
    lengths: Tokens of each row, its prompt's included; none has more than `width`.
    width: Columns of a sequence.
    sizes: Into how many steps the number of sequences is rounded up, from 0 to a sequence a row: as many programs may be
      compiled. With 1 there is a sequence for every row.
    multiple: The number of devices that sequences are split over; the number of sequences is a multiple of it.

  Returns:
    The packings of the parts, stacked, all with as many sequences as the part that needs most.
  """
  lengths = lengths.astype(np.int64)  # sums and signs of narrow ones would not fit
  parts, count = lengths.shape
  sequence, start = np.zeros((2, parts, count), np.int32)
  used = 0
  for part in range(parts):
    taken = np.zeros(count, np.int64)  # columns of each sequence
    for row in np.argsort(-lengths[part], kind='stable'):
      chosen = int(np.argmax(taken + lengths[part, row] <= width))
      sequence[part, row], start[part, row] = chosen, taken[chosen]
      taken[chosen] += lengths[part, row]
    used = max(used, int((taken > 0).sum()))
  step = -(-count // sizes)
  step = -(-step // multiple) * multiple
  total = min(-(-used // step) * step, -(-count // multiple) * multiple)
  row, index = np.zeros((2, parts, total, width), np.int32)
  real = np.zeros((parts, total, width), bool)
  for part in range(parts):
    for n in range(count):
      place = (part, sequence[part, n], slice(start[part, n], start[part, n] + lengths[part, n]))
      row[place], index[place], real[place] = n, np.arange(lengths[part, n]), True
  return Packing(row, index, real, sequence, start)


def put_packing(packing: Packing, mesh: jax.sharding.Mesh) -> Packing:
  """Stacked packings on the mesh."""
  return jax.tree.map(parallel.put, packing, packing_shardings(mesh))


def packing_shardings(mesh: jax.sharding.Mesh) -> PyTree[NamedSharding]:
  """Of stacked packings: sequences split over the batch axes, what is known of rows on every device."""
  split, whole = NamedSharding(mesh, PartitionSpec(None, *parallel.BATCH)), parallel.replicated(mesh)
  return Packing(row=split, index=split, real=split, sequence=whole, start=whole)  # type: ignore[arg-type]

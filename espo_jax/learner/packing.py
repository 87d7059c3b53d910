"""Packs the rows of a batch into few sequences, so that an update does not compute the padding of short rows.

A sequence holds several rows as segments. Few widths of a sequence are tried, and the number of sequences is rounded up,
because the compiler makes a program for each shape. Log-probabilities are unpacked into rows; logits never are.

The rows of a group may share their prompt, which a sequence then holds once:

| tokens, in the order of their columns | their segment | what they see |
|---|---|---|
| the group's prompt without its last token | the prompt's | their segment |
| each row's own: the last token of the prompt, then the response | the row's | their segment and the prompt's |

Every row has its own copy of the prompt's last token, because the first token of a response is drawn from the state after it.
So the state before a token is one column to the left, with shared prompts and without. A group whose rows do not fit into one
sequence has its prompt in several.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

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

  row: Int[Array | np.ndarray, '*parts B W']  # the row whose token is there; one of the rows that share it
  index: Int[Array | np.ndarray, '*parts B W']  # the token's index in its row, from the first prompt token
  segments: Int[Array | np.ndarray, '*parts B W']  # the token's segment; 0 where there is no token
  prompts: Int[Array | np.ndarray, '*parts B W'] | None  # the segment of the token's prompt; None where no prompt is shared
  sequence: Int[Array | np.ndarray, '*parts N']  # the sequence that holds the row
  start: Int[Array | np.ndarray, '*parts N']  # how far the columns of the row's own tokens are ahead of their indices

  @property
  def real(self) -> Bool[Array | np.ndarray, '*parts B W']:
    """Whether there is a token."""
    return self.segments > 0


class Groups(NamedTuple):
  """The groups of rows that share their prompt."""

  number: Integer[np.ndarray, 'parts N']  # the row's group
  prompt: Integer[np.ndarray, 'parts N']  # the number of tokens of its prompt, at least 1


def unpacked(prompt_lengths: Int[Array, 'N'], horizon: int, width: int) -> Packing:
  """Returns a packing with one sequence per row, which includes all `horizon` response columns.

  Args:
    prompt_lengths: The number of prompt tokens of each row.
    horizon: The number of columns of a response.
    width: The number of columns of a sequence, at least the longest prompt plus `horizon`.
  """
  rows = jnp.arange(prompt_lengths.shape[0])
  shape = (prompt_lengths.shape[0], width)
  row, index = jnp.broadcast_to(rows[:, None], shape), jnp.broadcast_to(jnp.arange(width), shape)
  segments = jnp.where(index < prompt_lengths[:, None] + horizon, row + 1, 0)
  return Packing(row, index, segments, None, rows, jnp.zeros_like(rows))


def pack(
  lengths: Integer[np.ndarray, 'parts N'],
  width: int,
  *,
  sizes: int,
  multiple: int,
  widths: int,
  cost: Callable[[int], float],
  groups: Groups | None = None,
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
    groups: The groups whose rows share their prompt; None for rows with a prompt each.

  Returns:
    The stacked packings of the parts. All have the number of sequences that the largest part needs.
  """
  lengths = lengths.astype(np.int64)  # narrow integers would overflow in sums and negation
  rows = [
    _tokens(lengths[part], None if groups is None else Groups(*(x[part] for x in groups))) for part in range(len(lengths))
  ]
  evenly = np.ceil(np.linspace(0.5, 2.0, widths) * width).astype(int).tolist() if min(widths, sizes) > 1 else [width]
  tried = [_Fitted(its, [_fit(part, its) for part in rows]) for its in evenly if its >= lengths.max(initial=1)]

  def total(fitted: _Fitted) -> int:
    """Returns the number of sequences, rounded up."""
    most = -(-lengths.shape[1] // multiple) * multiple
    step = -(-(1 << fitted.used.bit_length() - 1) // sizes)
    step = most if sizes == 1 else -(-step // multiple) * multiple
    return min(-(-fitted.used // step) * step, most)

  best = min(tried, key=lambda fitted: total(fitted) * fitted.width * cost(fitted.width))
  return _placed(rows, best, total(best), share=groups is not None)


class _Tokens(NamedTuple):
  """The tokens of the rows of a part: how many are a row's own, how many its group shares, and the group."""

  own: Integer[np.ndarray, 'N']
  shared: Integer[np.ndarray, 'N']
  group: Integer[np.ndarray, 'N']


def _tokens(lengths: Integer[np.ndarray, 'N'], groups: Groups | None) -> _Tokens:
  """Splits the tokens of each row into its own and those that its group shares. A row without tokens has neither."""
  if groups is None:
    return _Tokens(lengths, np.zeros_like(lengths), np.arange(lengths.size))
  shared = np.where(lengths > 0, groups.prompt.astype(np.int64) - 1, 0)
  return _Tokens(lengths - shared, shared, groups.number.astype(np.int64))


class _Places(NamedTuple):
  """The places of the rows of a part."""

  sequence: Int[np.ndarray, 'N']
  shared: Int[np.ndarray, 'N']  # the column of the first token that the row's group shares
  own: Int[np.ndarray, 'N']  # the column of the row's first own token
  used: int  # the number of sequences with a token, at least 1


class _Fitted(NamedTuple):
  """The places in sequences of a width."""

  width: int
  parts: list[_Places]

  @property
  def used(self) -> int:
    """The number of sequences that the largest part needs."""
    return max(part.used for part in self.parts)


def _fit(rows: _Tokens, width: int) -> _Places:
  """Fits pieces of groups by first fit: largest first, each into the first sequence that has room for it."""
  count = rows.own.size
  sequence, shared, own = np.zeros((3, count), np.int32)
  taken = np.zeros(count, np.int64)  # columns of each sequence
  for size, piece in sorted(_pieces(rows, width), key=lambda its: -its[0]):
    chosen = int(np.argmax(taken + size <= width))
    column = taken[chosen] + rows.shared[piece[0]]
    for row in piece:
      sequence[row], shared[row], own[row] = chosen, taken[chosen], column
      column += rows.own[row]
    taken[chosen] = column
  return _Places(sequence, shared, own, max(int((taken > 0).sum()), 1))


def _pieces(rows: _Tokens, width: int) -> list[tuple[int, list[int]]]:
  """Divides each group into pieces that fit into a sequence: the longest row first, then each that there is still room for.

  Returns:
    The tokens and the rows of each piece. A row without tokens is in none.
  """
  members = dict[int, list[int]]()
  for row in np.flatnonzero(rows.own).tolist():
    members.setdefault(int(rows.group[row]), []).append(row)
  pieces = []
  for left in members.values():
    left = sorted(left, key=lambda row: -rows.own[row])
    while left:
      taken, piece, rest = int(rows.shared[left[0]]), list[int](), list[int]()
      for row in left:
        fits = taken + int(rows.own[row]) <= width
        (piece if fits else rest).append(row)
        taken += int(rows.own[row]) * fits
      pieces.append((taken, piece))
      left = rest
  return pieces


def _placed(rows: Sequence[_Tokens], fitted: _Fitted, total: int, *, share: bool) -> Packing:
  """Returns the packing that puts the rows where they were fitted."""
  count = rows[0].own.size
  row, index, segments, prompts = np.zeros((4, len(rows), total, fitted.width), np.int32)
  for part, (its, places) in enumerate(zip(rows, fitted.parts, strict=True)):
    for n in np.flatnonzero(its.own):
      shared, own, prompt = its.shared[n], its.own[n], count + 1 + its.group[n]
      for first, after, length, segment in ((0, places.shared[n], shared, prompt), (shared, places.own[n], own, n + 1)):
        place = (part, places.sequence[n], slice(after, after + length))
        row[place], index[place] = n, np.arange(first, first + length)
        segments[place], prompts[place] = segment, prompt
  sequence = np.stack([places.sequence for places in fitted.parts])
  start = np.stack([places.own - its.shared.astype(np.int32) for its, places in zip(rows, fitted.parts, strict=True)])
  return Packing(row, index, segments, prompts if share else None, sequence, start)


def put_packing(packing: Packing, mesh: jax.sharding.Mesh) -> Packing:
  """Puts stacked packings on the mesh."""
  return jax.tree.map(parallel.put, packing, packing_shardings(packing, mesh))


def packing_shardings(packing: Packing, mesh: jax.sharding.Mesh) -> PyTree[NamedSharding]:
  """Returns the shardings of stacked packings: sequences are split over the batch axes, and arrays of rows replicated."""
  split, whole = NamedSharding(mesh, PartitionSpec(None, *parallel.BATCH)), parallel.replicated(mesh)
  of_columns = jax.tree.map(lambda _: split, packing)
  return of_columns.replace(sequence=whole, start=whole)


def in_parts(rows: int, parts: int, samples: int) -> Int[np.ndarray, 'parts M']:
  """Deals row indices out to parts in turn, so that a part has rows of every device, and few parts have rows of a group.

  Args:
    rows: The number of rows.
    parts: The number of parts, which divides `rows`.
    samples: The number of rows of a group. As many neighbours stay together as divide both a group and a part.
  """
  return _in_turn(np.arange(rows, dtype=np.int32), parts, samples).swapaxes(0, 1).reshape(parts, -1)


def by_part(
  function: Callable[[PyTree, Packing], PyTree[Array]], rows: PyTree[Array], packing: Packing, samples: int
) -> PyTree[Array]:
  """Returns the results of a function of the rows, which is applied to one part and its packing at a time.

  Args:
    function: A function from arrays of rows and their packing to arrays of rows.
    rows: Arrays `[N, ...]` of all rows.
    packing: The stacked packings of the parts, whose rows are those of `in_parts`.
    samples: The number of rows of a group.
  """
  parts = packing.row.shape[0]

  def part(number_and_packing: tuple[Int[Array, ''], Packing]) -> PyTree[Array]:
    number, its = number_and_packing

    def take(x: Array) -> Array:
      return jax.lax.dynamic_index_in_dim(_in_turn(x, parts, samples), number, 1, keepdims=False).reshape(-1, *x.shape[1:])

    return function(jax.tree.map(take, rows), its)

  def joined(x: Array) -> Array:  # [parts, M, ...] to [N, ...]
    turns = x.reshape(parts, -1, math.gcd(samples, x.shape[1]), *x.shape[2:])
    return turns.swapaxes(0, 1).reshape(-1, *x.shape[2:])

  return jax.tree.map(joined, jax.lax.map(part, (jnp.arange(parts), packing)))


def _in_turn(x: Any, parts: int, samples: int) -> Any:
  """Reshapes an array `[N, ...]` to `[turns, parts, neighbours, ...]`."""
  return x.reshape(-1, parts, math.gcd(samples, x.shape[0] // parts), *x.shape[1:])


def minibatches(
  seed: int,
  step: int,
  rows: int,
  epochs: int,
  count: int,
  keep: Bool[np.ndarray, 'N'] | None = None,
  together: int = 1,
) -> np.ndarray:
  """Draws row indices `int32[epochs * count, rows / count]`. Each epoch is a permutation by (seed, step, epoch).

  Args:
    seed: The seed of the run.
    step: The number of the update.
    rows: The number of rows.
    epochs: The number of passes.
    count: The number of minibatches per pass.
    keep: Whether each row is trained on. The minibatches of a pass get equal numbers of such rows, up to one, or of groups with
      such rows. None for all.
    together: The number of neighbours that stay together: 1, or the rows of a group.
  """
  order = [np.random.default_rng([seed, step, epoch]).permutation(rows // together) for epoch in range(epochs)]
  if keep is not None and not keep.all():
    some = np.asarray(keep.reshape(-1, together).any(axis=1))
    order = [its[np.argsort(~some[its], kind='stable')].reshape(-1, count).T for its in order]  # dealt out in turn
  drawn = np.stack(order).reshape(-1, 1) * together + np.arange(together)
  return drawn.reshape(epochs * count, rows // count).astype(np.int32)

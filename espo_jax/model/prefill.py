"""The first pass over the prompts, which are packed into sequences so that it computes little padding.

Prompts differ in length, and their array has room for the longest of all data, so that most of it is padding. Here prompts
share sequences, and a loop runs one sequence per shard at a time, as many as have a prompt. Shapes do not depend on the
lengths, so that one program serves all batches.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from espo_jax import parallel
from espo_jax.model.cache import Cache

# A sequence has room for four of the longest prompts, but for no more tokens than keep a device busy.
_PROMPTS, _TOKENS = 4, 512

Columns: TypeAlias = tuple[Any, Any, Any]  # the keys and values of every layer, and what the exits' networks remember

# From tokens, positions and segments to the hidden states and the columns of the cache.
Read = Callable[[Array, Array, Array], tuple[Array, Columns]]


class Packed(NamedTuple):
  """How the prompts of each shard share sequences."""

  prompt: Int[Array, 'X P W']  # the prompt of each column
  column: Int[Array, 'X P W']  # the index of each column in its prompt
  real: Bool[Array, 'X P W']  # False on padding
  used: Int[Array, '']  # the most sequences of a shard that have a prompt


def sequence_width(prompts: int, longest: int) -> int:
  """The number of columns of a sequence.

  Args:
    prompts: The number of prompts of a shard.
    longest: The most tokens of a prompt.
  """
  return max(longest, min(_TOKENS, min(_PROMPTS, prompts) * longest))


def pack_prompts(lengths: Int[Array, 'X P'], longest: int) -> Packed:
  """Packs the prompts of each shard by first fit: the longest first, each into the first sequence that has room for it.

  Args:
    lengths: The number of tokens of each prompt, by shard.
    longest: The most tokens that a prompt may have.
  """
  count = lengths.shape[1]
  width = sequence_width(count, longest)

  def pack(lengths: Int[Array, 'P']) -> Packed:
    def place(taken: Int[Array, 'P'], prompt: Int[Array, '']) -> tuple[Array, tuple[Array, Array]]:
      chosen = jnp.argmax(taken + lengths[prompt] <= width)
      return taken.at[chosen].add(lengths[prompt]), (chosen, taken[chosen])

    order = jnp.argsort(-lengths)
    taken, (sequence, start) = jax.lax.scan(place, jnp.zeros_like(lengths), order)
    index = jnp.broadcast_to(jnp.arange(longest), (count, longest))
    columns = jnp.where(index < lengths[order, None], start[:, None] + index, width)  # those past the prompt are dropped
    at = (sequence[:, None], columns)
    blank = jnp.zeros((count, width), lengths.dtype)
    prompt = blank.at[at].set(jnp.broadcast_to(order[:, None], index.shape).astype(blank.dtype), mode='drop')
    return Packed(
      prompt,
      blank.at[at].set(index.astype(blank.dtype), mode='drop'),
      (blank > 0).at[at].set(True, mode='drop'),
      (taken > 0).sum(),
    )

  packed = jax.vmap(pack)(lengths)
  return packed._replace(used=packed.used.max())


def prefill_columns(lengths: Int[Array, 'X P'], longest: int) -> Int[Array, '']:
  """The number of columns that a pass over the prompts computes, padding included; see `pack_prompts`."""
  shards, count = lengths.shape
  return pack_prompts(lengths, longest).used * sequence_width(count, longest) * shards


def prefill(
  reads: Sequence[tuple[Read, Cache]], tokens: Int[Array, 'B L'], lengths: Int[Array, 'B'], width: int
) -> list[tuple[Float[Array, 'B D'], Cache]]:
  """Reads all prompts with several networks of one shape.

  Args:
    reads: The function that runs each network on packed sequences, with an empty cache of `B` rows.
    tokens: The prompts, padded on the right.
    lengths: The number of tokens of each prompt, at least 1.
    width: The width of a hidden state.

  Returns:
    For each network the hidden state of each prompt's last token, and the cache with the prompts.
  """
  (count, longest), mesh = tokens.shape, jax.typeof(tokens).sharding.mesh
  shards = 1 if mesh.empty else parallel.batch_shards(mesh)
  shards = shards if count % shards == 0 else 1
  lengths_of, flat = lengths.reshape(shards, -1), tokens.reshape(shards, -1)
  packed = pack_prompts(lengths_of, longest)

  def split(x: Array) -> Array:  # rows to shards and rows, with a mesh on each its own
    heads = x.ndim - 4
    names = (None,) * heads + ('kv_heads', 'batch', None, None, None)
    return parallel.constrain(x.reshape(*x.shape[: heads + 1], shards, -1, *x.shape[-2:]), *names, mesh=mesh)

  def body(carry: tuple[Array, list[tuple[Array, Columns]]]) -> tuple[Array, list[tuple[Array, Columns]]]:
    i, done = carry
    prompt, index, real = (jax.lax.dynamic_index_in_dim(x, i, axis=1, keepdims=False) for x in packed[:3])
    given = jnp.take_along_axis(flat, prompt * longest + index, axis=1)
    sequences = jnp.where(real, given, 0), index, jnp.where(real, prompt + 1, 0)
    its = jnp.where(real, prompt, count)  # a row that is not there, so that padding is dropped
    is_last = index == jnp.take_along_axis(lengths_of, prompt, axis=1) - 1
    ends, place = jnp.where(is_last, its, count)[..., None], jnp.stack([its, index], axis=-1)

    def put(read: Read, last: Array, sides: Columns) -> tuple[Array, Columns]:
      hidden, fresh = read(*sequences)
      return _put(last, hidden, ends), jax.tree.map(lambda old, new: _put(old, new, place), sides, fresh)

    return i + 1, [put(read, *before) for (read, _), before in zip(reads, done, strict=True)]

  def begun(room: Cache) -> tuple[Array, Columns]:
    blank = parallel.constrain(jnp.zeros((shards, count // shards, width), _dtype(room)), 'batch', None, None, mesh=mesh)
    return blank, jax.tree.map(split, (room.keys, room.values, room.heads))

  def joined(room: Cache, last: Array, sides: Columns) -> tuple[Array, Cache]:
    keys, values, heads = jax.tree.map(lambda new, old: new.reshape(old.shape), sides, (room.keys, room.values, room.heads))
    return last.reshape(count, width), Cache(keys, values, lengths, heads)

  start = jnp.zeros((), jnp.int32), [begun(room) for _, room in reads]
  _, done = jax.lax.while_loop(lambda carry: carry[0] < packed.used, body, start)
  return [joined(room, *part) for (_, room), part in zip(reads, done, strict=True)]


def _dtype(cache: Cache) -> jnp.dtype:
  return jax.tree.leaves(cache.keys)[0].dtype


def _put(old: Float[Array, '...'], new: Float[Array, '... X W K'], place: Int[Array, 'X W n']) -> Array:
  """`old`, an array `[..., X, P, K]` or `[..., X, P, C, K]`, with the new columns at their places; others are dropped.

  Shards are a batch dimension of the scatter, as rows are in `cache.append`, so that no column moves between devices.
  """
  lead, given = new.ndim - 3, place.shape[-1]
  indexed = tuple(range(lead + 1, lead + 1 + given))
  dimensions = jax.lax.ScatterDimensionNumbers(
    update_window_dims=(*range(lead), lead + 2),
    inserted_window_dims=indexed,
    scatter_dims_to_operand_dims=indexed,
    operand_batching_dims=(lead,),
    scatter_indices_batching_dims=(0,),
  )
  mode = jax.lax.GatherScatterMode.FILL_OR_DROP
  return jax.lax.scatter(old, place, new.astype(old.dtype), dimensions, mode=mode)

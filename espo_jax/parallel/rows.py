"""Moves arrays between host and mesh.

A process has the rows of a batch that lie on its devices. It reads and grades no other rows.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Int, PyTree, Shaped

from espo_jax.parallel.mesh import over_batch, replicated


def batch_shards(mesh: jax.sharding.Mesh | jax.sharding.AbstractMesh) -> int:
  """Returns the number of blocks into which the rows of a batch are split."""
  return mesh.shape['data'] * mesh.shape['fsdp']


def my_rows(mesh: jax.sharding.Mesh, count: int) -> Int[np.ndarray, 'mine']:
  """Returns the indices of the rows that this process has of a batch with `count` rows, in order.

  Along the tensor axis several processes may have the same rows.

  Raises:
    ValueError: The rows do not split evenly.
  """
  shards = batch_shards(mesh)
  if count % shards:
    raise ValueError(
      f'{count} rows do not divide over mesh.data * mesh.fsdp = {shards} blocks on {jax.process_count()} processes; '
      f'fix: a multiple of {shards}'
    )
  blocks = over_batch(mesh).addressable_devices_indices_map((shards,)).values()
  starts = sorted({index[0].indices(shards)[0] for index in blocks if index is not None})
  size = count // shards
  return np.concatenate([np.arange(size * block, size * (block + 1)) for block in starts])


def put(tree: PyTree, sharding: jax.sharding.Sharding) -> PyTree:
  """Puts arrays that every process holds whole onto devices with `sharding`. A transfer guard allows it."""

  def one(x: Any) -> Array:
    x = np.asarray(jax.device_get(x))
    return _made(x.shape, sharding, lambda index: x[index])

  return jax.tree.map(one, tree)


def put_rows(tree: PyTree, mesh: jax.sharding.Mesh) -> PyTree:
  """Puts the rows of this process onto the mesh, in their order, and returns the arrays of all rows.

  Like `put` it passes a transfer guard.
  """
  shards = batch_shards(mesh)
  held = len(my_rows(mesh, shards))

  def one(x: np.ndarray) -> Array:
    count = x.shape[0] * shards // held
    place = np.zeros(count, np.int32)
    place[my_rows(mesh, count)] = np.arange(x.shape[0])
    return _made((count, *x.shape[1:]), over_batch(mesh), lambda index: x[place[index[0]]])

  return jax.tree.map(one, tree)


def take_rows(x: Shaped[Array, 'N *rest'], mesh: jax.sharding.Mesh) -> Shaped[np.ndarray, 'mine *rest']:
  """Returns this process's rows of an array that is split over the batch axes."""
  assert x.sharding.is_equivalent_to(over_batch(mesh), x.ndim), x.sharding
  blocks = {shard.index[0].indices(x.shape[0])[0]: shard.data for shard in x.addressable_shards}
  return np.concatenate(jax.device_get([blocks[start] for start in sorted(blocks)]))


def fetch(tree: PyTree, mesh: jax.sharding.Mesh) -> PyTree:
  """Returns whole arrays on every host. With several processes this is a collective, which all of them have to call."""
  return jax.device_get(tree if jax.process_count() == 1 else lay(tree, replicated(mesh)))


def lay(tree: PyTree, sharding: jax.sharding.NamedSharding) -> PyTree:
  """Reshards arrays that are on the mesh to `sharding`, all in one program."""
  return tree if sharding.mesh.size == 1 else _identity(sharding)(tree)


@functools.lru_cache
def _identity(sharding: jax.sharding.NamedSharding) -> Callable[[PyTree], PyTree]:
  return jax.jit(lambda tree: tree, out_shardings=sharding)


def _made(shape: tuple[int, ...], sharding: jax.sharding.Sharding, part: Any) -> Array:
  with jax.transfer_guard_host_to_device('allow'):
    return jax.make_array_from_callback(shape, sharding, part)

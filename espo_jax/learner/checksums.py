"""Checksums of arrays. They are saved in a checkpoint, and what is read from it must have the same ones.

A checksum is computed where the array is, and does not depend on how it is split over devices. Each element is mixed with its
position by a bijection of 32-bit words, and the mixed words are added. So one changed bit always changes the checksum, and
larger changes, such as swapped parts, escape with a probability of 2^-32.
"""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Shaped, UInt32

_GOLDEN = 2654435769  # 2^32 divided by the golden ratio, which is odd: no two positions below 2^32 have the same product


def checksums(arrays: Mapping[str, Array | np.ndarray]) -> dict[str, int]:
  """Returns the checksum of each array by its name. An array of the host is copied to the device while it is checked.

  One program runs at a time. Each adds up the parts of all devices, and many such programs at once can starve each other on a
  CPU.
  """
  return {name: int(jax.device_get(checksum(_put(x)))) for name, x in arrays.items()}


def _put(x: Array | np.ndarray) -> Array:
  """Returns the array on its device; the moments of an offloaded state are in the host's memory."""
  if isinstance(x, np.ndarray):
    whole = np.ascontiguousarray(x)
    return jax.device_put(whole.view(np.uint32) if x.dtype.itemsize == 8 else whole)  # jax would narrow 64 bits
  return x if x.sharding.memory_kind == 'device' else jax.device_put(x, x.sharding.with_memory_kind('device'))


@jax.jit
def checksum(x: Shaped[Array, '...']) -> UInt32[Array, '']:
  """Returns the sum of the elements' bits, each mixed with its position, modulo 2^32."""
  words = _words(x)
  position = jnp.zeros((), jnp.uint32)
  for axis in range(words.ndim):
    stride = math.prod(words.shape[axis + 1 :]) % 2**32
    position += jax.lax.broadcasted_iota(jnp.uint32, words.shape, axis) * jnp.uint32(stride)
  return _mixed(words + position * jnp.uint32(_GOLDEN)).sum(dtype=jnp.uint32)


def _words(x: Array) -> Any:
  """Returns the bits of each element as words; an element of 64 bits is two."""
  if x.dtype == jnp.bool_:
    return x.astype(jnp.uint32)
  bits = 8 * min(x.dtype.itemsize, 4)
  return jax.lax.bitcast_convert_type(x, jnp.dtype(f'uint{bits}')).astype(jnp.uint32)


def _mixed(words: Array) -> Array:
  """Applies a bijection in which each bit of a word changes about half of the bits: the last step of MurmurHash3."""
  words = (words ^ (words >> 16)) * jnp.uint32(0x85EBCA6B)
  words = (words ^ (words >> 13)) * jnp.uint32(0xC2B2AE35)
  return words ^ (words >> 16)

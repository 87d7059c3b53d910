"""Routes: the blocks that the tokens of a row run through, one bit per block, in words of 32 blocks."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, UInt32

from espo_jax.types import takes_numpy


@takes_numpy
def route_of(runs: Bool[Array, '... L']) -> UInt32[Array, '... R']:
  """Returns the route through the blocks that run."""
  *rows, count = runs.shape
  words = jnp.pad(runs, [(0, 0)] * len(rows) + [(0, -count % 32)]).reshape(*rows, -1, 32)
  return (words.astype(jnp.uint32) << jnp.arange(32, dtype=jnp.uint32)).sum(-1, dtype=jnp.uint32)


@takes_numpy
def on_route(route: UInt32[Array, '... R'], block: Int[Array, ''] | int) -> Bool[Array, '...']:
  """Returns whether the route passes through block number `block`."""
  return (route[..., block // 32] >> jnp.uint32(block % 32)) & 1 > 0


@takes_numpy
def route_length(route: UInt32[Array, '... R']) -> Int[Array, '...']:
  """Returns the number of blocks on the route."""
  return jax.lax.population_count(route).astype(jnp.int32).sum(-1)

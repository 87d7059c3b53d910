"""Exit policies with a fixed schedule: the depth of a token follows from its position."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from espo_jax.exits.policy import ExitPolicy
from espo_jax.exits.registered import register
from espo_jax.registry import source
from espo_jax.types import takes_numpy


@register('never')
@source('the model as it is')
def never() -> ExitPolicy:
  """Runs every token through every block."""

  @takes_numpy
  def schedule(position: Int[Array, '...'], count: int, level: Float[Array, '']) -> Int[Array, '...']:
    del level
    return jnp.full_like(position, count)

  return ExitPolicy(0.0, schedule=schedule)


@register('fixed')
@source('the model cut off')
def fixed(*, level: float = 1.0) -> ExitPolicy:
  """Runs every token through the first `level` blocks.

  Args:
    level: The number of blocks that run.
  """

  @takes_numpy
  def schedule(position: Int[Array, '...'], count: int, level: Float[Array, '']) -> Int[Array, '...']:
    return jnp.full_like(position, jnp.clip(level, 0, count).astype(jnp.int32))

  return ExitPolicy(level, schedule=schedule)


@takes_numpy
def linear_decay(position: Int[Array, '...'], most: int, least: Array | float, start: int, end: int) -> Int[Array, '...']:
  """Returns the number of blocks at a position: `most` up to `start`, `least` from `end` on, and linear between, rounded down.

  The number never increases with the position.
  """
  done = jnp.clip((position - start) / max(end - start, 1), 0.0, 1.0)
  # The constant corrects rounding: a whole number may come out just below itself.
  return jnp.floor(most - done * (most - least) + 1e-4).astype(jnp.int32)


@register('skipdecode')
@source('SkipDecode, arXiv 2307.02628')
def skipdecode(*, level: float = 1.0, bottom: int = 1, start: int = 0, end: int = 64) -> ExitPolicy:
  """Runs the first `bottom` blocks and as many of the last ones as the position's depth allows.

  The depth is the same for the whole batch and never increases with the position.

  Args:
    level: The number of blocks that run from position `end` on.
    bottom: The number of first blocks of the model among the blocks that run.
    start: The position up to which all blocks run.
    end: The position from which on `level` blocks run.
  """

  @takes_numpy
  def schedule(position: Int[Array, '...'], count: int, level: Float[Array, '']) -> Int[Array, '...']:
    return linear_decay(position, count, jnp.clip(level, bottom, count), start, end)

  return ExitPolicy(level, schedule=schedule, kv_fill='monotone', bottom=bottom)

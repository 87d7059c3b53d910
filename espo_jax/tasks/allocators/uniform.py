"""The allocator that has no preference."""

import numpy as np

from espo_jax.registry import source
from espo_jax.tasks.allocators.registered import Allocator, Memory, Seen, register
from espo_jax.tasks.allocators.stream import Stream


@register('uniform')
@source('ours')
def uniform() -> Allocator:
  """Takes the problems as they come; each has `rollout.samples` rows."""

  def choose(memory: Memory, stream: Stream, position: int, count: int) -> tuple[np.ndarray, int]:
    del memory
    return stream.take(position, count)

  def observe(memory: Memory, seen: Seen) -> Memory:
    del seen
    return memory

  return Allocator(lambda pool: {}, choose, None, observe)

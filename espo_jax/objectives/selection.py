"""Down-sampling: which of a prompt's graded rows are trained on."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from espo_jax.types import takes_numpy


@takes_numpy
def most_varied(scores: Float[Array, 'P G'], keep: Bool[Array, 'P G'], count: int) -> Bool[Array, 'P G']:
  """Returns the `count` rows of each prompt whose scores vary most: some highest and the rest lowest (PODS, arXiv 2504.13818).

  How many are highest is chosen by trying all numbers; of equal variances the one with the fewest highest rows wins. Of equal
  scores the first rows count as lower. A prompt with at most `count` rows to choose from keeps them all.

  Args:
    scores: The scores of each prompt's samples.
    keep: The rows to choose from.
    count: The most rows that are kept.
  """
  rank = jnp.argsort(jnp.argsort(jnp.where(keep, scores, jnp.inf), axis=1), axis=1)  # 0 is the lowest; the rest come last
  available = keep.sum(axis=1, keepdims=True)
  taken = jnp.minimum(count, available)
  chosen, spread = [], []
  for highest in range(count + 1):
    picked = keep & ((rank < taken - highest) | (rank >= available - highest))
    mean = jnp.where(picked, scores, 0.0).sum(axis=1, keepdims=True) / jnp.maximum(taken, 1)
    squares = jnp.where(picked, jnp.square(scores - mean), 0.0).sum(axis=1)
    chosen.append(picked)
    spread.append(jnp.where(highest <= taken[:, 0], squares, -1.0))
  best = jnp.argmax(jnp.stack(spread), axis=0)
  return jnp.take_along_axis(jnp.stack(chosen), best[None, :, None], axis=0)[0]

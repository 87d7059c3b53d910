"""The problems of a pool, in the order in which a training meets them."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

_LONGEST = 100  # epochs that a search for problems may take


class Stream(NamedTuple):
  """The problems of a pool, epoch by epoch, each epoch in an order of its own.

  Attributes:
    pool: The number of problems.
    seed: The seed of the orders.
  """

  pool: int
  seed: int

  def problem(self, position: int) -> int:
    """Returns the problem at a position: an index into the pool."""
    epoch, place = divmod(position, self.pool)
    return int(_order(self.seed, epoch, self.pool)[place])

  def chance(self, position: int) -> float:
    """Returns a uniform draw that belongs to the position."""
    return float(np.random.default_rng([self.seed, 1, position]).random())

  def draws(self, position: int) -> np.random.Generator:
    """Returns a generator of draws that belong to the position, independent of `chance`."""
    return np.random.default_rng([self.seed, 2, position])

  def take(self, position: int, count: int, skip: Callable[[int, int], bool] | None = None) -> tuple[np.ndarray, int]:
    """Returns the next `count` problems, each at most once, and the position behind them.

    Args:
      position: The first position to look at.
      count: The number of problems, at most the size of the pool.
      skip: Says, by position and problem, which problems are passed over. It is asked in order, once for each position whose
        problem was not taken yet. After 100 epochs no problem is passed over.
    """
    found: list[int] = []
    last = position + _LONGEST * self.pool
    while len(found) < count:
      problem = self.problem(position)
      if problem not in found and (skip is None or position >= last or not skip(position, problem)):
        found.append(problem)
      position += 1
    return np.array(found, np.int32), position


@functools.lru_cache(maxsize=4)
def _order(seed: int, epoch: int, pool: int) -> np.ndarray:
  return np.random.default_rng([seed, 0, epoch]).permutation(pool)

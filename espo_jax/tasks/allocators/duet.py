"""DUET's allocation: a problem has the more rows, the more its gradient varies and the shorter its rows are."""

import numpy as np
from jaxtyping import Float, Int

from espo_jax.registry import source
from espo_jax.tasks.allocators.registered import Allocator, Memory, Seen, register
from espo_jax.tasks.allocators.stream import Stream

_BISECTIONS, _REACH = 10, 20.0  # of the logarithm of lambda
_LEAST_SHARE = 0.05  # of the rows of a mean problem, in the weights


def rows_within(
  spread: Float[np.ndarray, 'P'], lengths: Float[np.ndarray, 'P'], budget: float, most: int
) -> tuple[Int[np.ndarray, 'P'], Float[np.ndarray, 'P']]:
  """Returns `n = clip(round(spread / sqrt(lambda lengths)), 1, most)` within a budget of tokens, and the weights of the rows.

  `lambda` is found by ten bisections. While the rows take more than the budget, the problem with the longest rows loses one, as
  long as it has several. The weight is the mean number of rows over the problem's own before that, at least 1 and at most 20.

  Args:
    spread: How much the gradient varies between rows of a problem.
    lengths: The tokens that a row of a problem takes.
    budget: The number of tokens.
    most: The most rows of a problem.
  """

  def share_out(log: float) -> np.ndarray:
    return np.clip(np.round(spread / np.sqrt(np.exp(log) * np.maximum(lengths, 1.0))), 1, most)

  low, high = -_REACH, _REACH
  for _ in range(_BISECTIONS):
    middle = (low + high) / 2
    low, high = (middle, high) if (share_out(middle) * lengths).sum() > budget else (low, middle)
  rows = share_out((low + high) / 2)
  weights = 1 / np.clip(rows / max(rows.mean(), 1.0), _LEAST_SHARE, 1.0)
  while (rows * lengths).sum() > budget and (rows > 1).any():
    rows[np.where(rows > 1, lengths, -1.0).argmax()] -= 1
  return rows.astype(np.int32), weights


@register('duet')
@source('DUET, arXiv 2605.08441, its allocation alone', 'budget')
def duet(*, budget: float = 0.5, base: int = 8) -> Allocator:
  """Gives a problem `clip(round(s / sqrt(lambda L)), 1, rollout.samples)` rows, within a share of a plain rollout's tokens.

  `s` is the deviation, between rows of a problem, of advantage times log-probability; it is averaged over the problem's visits.
  `L` is the mean length of its rows. A problem that was not visited has `s` of 1 and the mean length of all rows [I]. `lambda`
  is such that all rows take `budget` times the tokens of `base` rows for each problem. Advantages are multiplied by the mean
  number of rows over the problem's own, at least 1 and at most 20. DUET measures `s` after that, here it is measured before.

  Args:
    budget: The share of the tokens.
    base: The rows of a problem in a plain rollout, of which the budget is a share.
  """

  def init(pool: int) -> Memory:
    each = {name: np.zeros(pool, np.float32) for name in ('visits', 'spread', 'rows', 'tokens')}
    return each | {name: np.zeros((), np.float32) for name in ('all_rows', 'all_tokens')}

  def choose(memory: Memory, stream: Stream, position: int, count: int) -> tuple[np.ndarray, int]:
    del memory
    return stream.take(position, count)

  def share_out(memory: Memory, problems: np.ndarray, samples: int) -> tuple[np.ndarray, np.ndarray]:
    visits, spread, rows, tokens = (memory[name][problems].astype(float) for name in ('visits', 'spread', 'rows', 'tokens'))
    anyone = float(memory['all_tokens'] / memory['all_rows']) if memory['all_rows'] else 1.0
    spread = np.where(visits > 0, spread / np.maximum(visits, 1), 1.0)
    lengths = np.where(rows > 0, tokens / np.maximum(rows, 1), anyone)
    return rows_within(spread, lengths, budget * base * lengths.sum(), samples)

  def observe(memory: Memory, seen: Seen) -> Memory:
    found = {name: value.copy() for name, value in memory.items()}
    whole = ~np.isnan(seen.lengths)
    lengths, counts = np.where(whole, seen.lengths, 0.0).sum(axis=1), whole.sum(axis=1)
    found['rows'][seen.problems] += counts
    found['tokens'][seen.problems] += lengths
    found['all_rows'] += np.float32(counts.sum())
    found['all_tokens'] += np.float32(lengths.sum())
    several = (~np.isnan(seen.signal)).sum(axis=1) >= 2  # a deviation needs two rows
    found['visits'][seen.problems[several]] += 1
    found['spread'][seen.problems[several]] += np.nanstd(seen.signal[several], axis=1)
    return found

  return Allocator(init, choose, share_out, observe)

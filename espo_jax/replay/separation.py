"""How well a number tells wrong rows from right ones, over all rows and among the rows of one problem.

A number that only knows which problems are hard separates rows of different problems. A stop rule that follows it saves tokens
by giving up on problems. A number that also separates the rows of one problem tells a failing row from its siblings.
"""

from typing import NamedTuple

import numpy as np
import scipy.stats
from jaxtyping import Array, Bool, Float, Int, Integer

RESAMPLES = 1000


class Area(NamedTuple):
  """An area under a ROC curve with its 95 % interval; nan without a pair of a wrong and a right row."""

  value: float
  low: float
  high: float
  pairs: int  # the number of pairs of a wrong and a right row


def overall(
  score: Float[Array | np.ndarray, 'N'], wrong: Bool[Array | np.ndarray, 'N'], problem: Integer[Array | np.ndarray, 'N']
) -> Area:
  """Computes the probability that a wrong row has a higher score than a right row. Equal scores count one half.

  Args:
    score: The number of each row that is meant to be higher for rows that go wrong.
    wrong: Whether each row turns out wrong.
    problem: The problem of each row. The interval is a bootstrap over problems.
  """
  score, wrong, problem = (np.asarray(x) for x in (score, wrong, problem))
  rows = [np.flatnonzero(problem == one) for one in np.unique(problem)]

  def area(index: np.ndarray) -> float:
    bad, good = score[index][wrong[index]], score[index][~wrong[index]]
    if not len(bad) or not len(good):
      return np.nan
    ranks = scipy.stats.rankdata(np.concatenate([bad, good]))[: len(bad)]
    return (ranks.sum() - len(bad) * (len(bad) + 1) / 2) / (len(bad) * len(good))

  drawn = [area(np.concatenate([rows[i] for i in chosen])) for chosen in _resampled(len(rows))]
  return _with_interval(area(np.arange(len(score))), drawn, int(wrong.sum() * (~wrong).sum()))


def within_problems(
  score: Float[Array | np.ndarray, 'N'], wrong: Bool[Array | np.ndarray, 'N'], problem: Integer[Array | np.ndarray, 'N']
) -> Area:
  """Computes the same probability over the pairs of a wrong and a right row of one problem. All pairs weigh the same.

  Args:
    score: The number of each row that is meant to be higher for rows that go wrong.
    wrong: Whether each row turns out wrong.
    problem: The problem of each row. The interval is a bootstrap over problems.
  """
  score, wrong, problem = (np.asarray(x) for x in (score, wrong, problem))
  counts = []
  for one in np.unique(problem):
    bad, good = score[(problem == one) & wrong], score[(problem == one) & ~wrong]
    higher = (bad[:, None] > good).sum() + (bad[:, None] == good).sum() / 2
    counts.append((higher, len(bad) * len(good)))
  won, pairs = np.array(counts, np.float64).reshape(-1, 2).T

  def area(index: np.ndarray) -> float:
    return won[index].sum() / pairs[index].sum() if pairs[index].sum() else np.nan

  return _with_interval(area(np.arange(len(won))), [area(chosen) for chosen in _resampled(len(won))], int(pairs.sum()))


def _resampled(count: int) -> Int[np.ndarray, 'R N']:
  return np.random.default_rng(0).integers(count, size=(RESAMPLES, count))


def _with_interval(value: float, drawn: list[float], pairs: int) -> Area:
  known = np.array(drawn)[~np.isnan(drawn)]
  low, high = np.percentile(known, [2.5, 97.5]) if len(known) else (np.nan, np.nan)
  return Area(float(value), float(low), float(high), pairs)

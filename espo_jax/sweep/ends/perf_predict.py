"""Ends a run whose final accuracy, predicted from those of finished runs, is surely below the best one."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from espo_jax.registry import source
from espo_jax.sweep.ends.registered import register
from espo_jax.sweep.ends.settings import encoded
from espo_jax.sweep.ends.trial import EarlyEnd, Judge, Trials

_RIDGES = (1e-3, 1e-2, 1e-1, 1.0)
_WIDTHS = (0.5, 1.0, 2.0)


class Regression(NamedTuple):
  """A fitted regression.

  Attributes:
    predict: The function from the features of a run to its predicted value.
    sigma: The root mean square of the errors, each of a run that is left out of the fit.
  """

  predict: Callable[[Float[np.ndarray, 'F']], float]
  sigma: float


@register('perf_predict')
@source('performance prediction, arXiv 1705.10823', 'confidence')
def perf_predict(*, confidence: float = 0.95, first: int = 5, runs: int = 4, tail: int = 5) -> EarlyEnd:
  """Ends a run if its final accuracy is below the best one with a probability of at least `confidence`.

  At each update a regression is fitted to the finished runs of the same seed, with these features: the settings in which runs
  differ, the accuracies up to this update, and their first and second differences. With the prediction `y`, the error `sigma`
  of the regression and the best final accuracy `best`, the probability is

      Phi((best - y) / sigma).

  The paper fits nu-SVR to about a hundred runs. Here it is kernel ridge regression, whose ridge and width have the least
  leave-one-out error, and `sigma` is that error [I].

  Args:
    confidence: The probability from which on a run is ended; the paper has 0.95 and 0.99.
    first: The first update at which a run may be ended [U].
    runs: The finished runs without which no run is ended, at least 3 [U].
    tail: The number of last updates whose mean is the final accuracy [U].
  """
  if not 0.5 < confidence < 1:
    raise ValueError(f'confidence = {confidence}: out of range; fix: a number in (0.5, 1)')
  if runs < 3:
    raise ValueError(f'runs = {runs}: the error of a prediction needs more; fix: a number of at least 3')
  if tail < 1:
    raise ValueError(f'tail = {tail}: out of range; fix: a number of at least 1')

  def begin(trials: Trials) -> Judge:
    whole, best = trials.whole, trials.best(tail)
    settings = encoded([*(trial.settings for trial in whole), trials.settings])
    finals = np.array([trial.final(tail) for trial in whole])
    updates, mine = list[int](), list[float]()

    def judge(update: int, accuracy: float) -> str:
      updates.append(update)
      mine.append(accuracy)
      if update < first or len(whole) < runs:
        return ''
      curves = [*(np.interp(updates, trial.updates, trial.accuracy) for trial in whole), np.array(mine)]
      features = np.stack([np.concatenate([own, *differences(curve)]) for own, curve in zip(settings, curves, strict=True)])
      found = regression(features[:-1], finals)
      predicted = found.predict(features[-1])
      if probability_below(best, predicted, found.sigma) < confidence:
        return ''
      return f'predicted to end at {predicted:.3f} ± {found.sigma:.3f}, below {best:.3f}'

    return judge

  return begin


def differences(curve: Float[np.ndarray, 'T']) -> Sequence[Float[np.ndarray, '_']]:
  """Returns a curve, its first differences and its second differences."""
  return [np.diff(curve, n) for n in range(3)]


def probability_below(best: float, predicted: float, sigma: float) -> float:
  """Returns the probability that a value with a Gaussian error is below another one; without an error it is 0, 1/2 or 1."""
  distance = best - predicted
  return 0.5 * (1 + (math.erf(distance / (sigma * math.sqrt(2))) if sigma > 0 else float(np.sign(distance))))


def regression(features: Float[np.ndarray, 'N F'], values: Float[np.ndarray, 'N']) -> Regression:
  """Fits kernel ridge regression whose ridge and width have the least leave-one-out error.

  The kernel is Gaussian, plus a constant in place of an intercept. Features are standardised. A feature in which the runs do
  not differ is left out.

  Args:
    features: The features of each run.
    values: The value of each run.
  """
  mean, spread = features.mean(0), features.std(0)
  used = spread > 1e-9
  scaled = (features[:, used] - mean[used]) / spread[used]
  distances = _distances(scaled, scaled)
  fits = [(*_fit(_kernel(distances, width), values, ridge), width) for ridge in _RIDGES for width in _WIDTHS]
  errors, alpha, width = min(fits, key=lambda fit: float(np.square(fit[0]).mean()))

  def predict(run: Float[np.ndarray, 'F']) -> float:
    return float(_kernel(_distances(((run[used] - mean[used]) / spread[used])[None], scaled)[0], width) @ alpha)

  return Regression(predict, float(np.sqrt(np.square(errors).mean())))


def _fit(
  kernel: Float[np.ndarray, 'N N'], values: Float[np.ndarray, 'N'], ridge: float
) -> tuple[Float[np.ndarray, 'N'], Float[np.ndarray, 'N']]:
  """Returns the errors of the runs, each predicted from the others, and the weights of the runs in a prediction."""
  inverse = np.linalg.inv(kernel + ridge * np.eye(len(values)))
  alpha = inverse @ values
  return alpha / np.diag(inverse), alpha


def _distances(a: Float[np.ndarray, 'N F'], b: Float[np.ndarray, 'M F']) -> Float[np.ndarray, 'N M']:
  """Returns the squared distances of runs, as means over features."""
  return np.square(a[:, None] - b[None]).sum(-1) / max(a.shape[1], 1)


def _kernel(distances: Float[np.ndarray, '*N'], width: float) -> Float[np.ndarray, '*N']:
  return 1.0 + np.exp(-distances / (2 * width**2))

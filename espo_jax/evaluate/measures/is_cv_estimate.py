"""Estimates what another policy would do from the answers of one policy: importance sampling with a control variate."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Float

from espo_jax.evaluate.measures.registered import register
from espo_jax.registry import source

_ROUNDING = 1e-3  # a spread of ratios that rounding explains; a slope fitted to it would only add noise


class Estimate(NamedTuple):
  """An estimated mean.

  Attributes:
    mean: The estimate.
    error: The standard error of the estimate over problems; nan for one problem.
    effective: The number of answers of the other policy that tell as much: `(sum w)^2 / sum w^2`.
  """

  mean: float
  error: float
  effective: float


@register('is_cv_estimate')
@source('several expectations from one sample set by importance sampling and control variates; this estimator is ours')
def is_cv_estimate(
  log_ratios: Float[Array | np.ndarray, 'N'], values: Float[Array | np.ndarray, 'N'], *, samples: int = 1
) -> Estimate:
  """Returns the mean of `values` if the answers had been sampled by another policy.

  With the ratio `w` of the two probabilities of an answer, the estimate is

      mean(w values - b (w - 1)),

  where `w - 1` has the mean 0, and `b` is the coefficient of the regression of `w values` on `w`. The coefficient that an
  answer meets is fitted on the other half of the answers, so that the estimate is unbiased [I]. Mean and error are nan if no
  ratio, or not every ratio, is a number of double precision.

  Args:
    log_ratios: The log-probability of each answer under the other policy minus that under the sampling policy.
    values: The number of each answer, such as 1 for a right one.
    samples: The number of answers to each problem, which stand together. They are not independent of each other.
  """
  logs = np.asarray(log_ratios, np.float64)
  relative = np.exp(logs - logs.max())  # the effective number does not depend on a factor of all ratios
  effective = float(relative.sum() ** 2 / np.square(relative).sum())
  with np.errstate(over='ignore'):
    ratios = np.exp(logs)
  if not (np.isfinite(ratios).all() and ratios.any()):
    return Estimate(np.nan, np.nan, effective)
  weighted = ratios * np.asarray(values, np.float64)
  half = np.arange(len(ratios)) % 2 == 0
  slope = np.where(half, _slope(ratios[~half], weighted[~half]), _slope(ratios[half], weighted[half]))
  parts = weighted - slope * (ratios - 1)
  means = parts.reshape(-1, samples).mean(axis=1)
  error = means.std(ddof=1) / np.sqrt(len(means)) if len(means) > 1 else np.nan
  return Estimate(float(parts.mean()), float(error), effective)


def _slope(x: Float[np.ndarray, 'N'], y: Float[np.ndarray, 'N']) -> float:
  """Returns the slope of the regression of `y` on `x`; 0 if `x` is constant up to rounding."""
  centred = x - x.mean()
  return float(centred @ y / (centred @ centred)) if x.std() > _ROUNDING else 0.0

"""The rule of Longstaff and Schwartz (2001): exercise where it pays more than a regression expects of waiting."""

import itertools

import numpy as np
from jaxtyping import Bool, Float

from option_stopping.market import Option, payoffs

Rule = list[np.ndarray]  # the coefficients of each date but the last


def fit(option: Option, paths: Float[np.ndarray, 'N dates assets'], degree: int) -> Rule:
  """Fits the rule from the last date to the first, on the paths that are in the money.

  Args:
    option: The option.
    paths: The paths to fit.
    degree: The degree of the polynomials of the prices.
  """
  pays = payoffs(option, paths) * option.discounts
  later, rule = pays[:, -1], []
  for date in range(option.dates - 2, -1, -1):
    inside = pays[:, date] > 0
    terms = _terms(option, paths[:, date], degree)
    coefficients = np.linalg.lstsq(terms[inside], later[inside], rcond=None)[0]
    rule.append(coefficients)
    later = np.where(inside & (pays[:, date] > terms @ coefficients), pays[:, date], later)
  return rule[::-1]


def stops(option: Option, rule: Rule, paths: Float[np.ndarray, 'N dates assets'], degree: int) -> Bool[np.ndarray, 'N dates']:
  """Returns at which dates the rule exercises, the last of which it leaves to the caller."""
  pays = payoffs(option, paths) * option.discounts
  found = np.zeros(pays.shape, bool)
  for date, coefficients in enumerate(rule):
    found[:, date] = (pays[:, date] > 0) & (pays[:, date] > _terms(option, paths[:, date], degree) @ coefficients)
  return found


def _terms(option: Option, at_date: Float[np.ndarray, 'N assets'], degree: int) -> Float[np.ndarray, 'N terms']:
  """Returns the monomials, up to a degree, of the prices over the strike, which are sorted because assets are alike."""
  ordered = np.sort(at_date, axis=1) / option.strike
  chosen = itertools.chain.from_iterable(
    itertools.combinations_with_replacement(range(option.assets), power) for power in range(degree + 1)
  )
  return np.stack([ordered[:, list(which)].prod(axis=1) for which in chosen], axis=1)

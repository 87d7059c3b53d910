"""Bermudan options on assets that follow geometric Brownian motions without correlation, and their values by lattices."""

import math
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array, Bool, Float


class Option(NamedTuple):
  """An option that its holder may exercise once, at one of equally spaced dates.

  A put on one asset pays `max(strike - price, 0)`, and a call on the highest of several pays `max(highest - strike, 0)`.

  Attributes:
    assets: The number of assets. One makes a put, several make a call.
    start: The price of each asset today.
    strike: The price at which the option is exercised.
    rate: The interest rate.
    dividend: The rate of dividends of each asset.
    volatility: The volatility of each asset.
    years: The time to the last date.
    dates: The number of dates. The first is one interval from today.
  """

  assets: int
  start: float
  strike: float
  rate: float
  dividend: float
  volatility: float
  years: float
  dates: int

  @property
  def interval(self) -> float:
    """The years between two dates."""
    return self.years / self.dates

  @property
  def drift(self) -> float:
    """The mean change of the logarithm of a price in one interval."""
    return (self.rate - self.dividend - self.volatility**2 / 2) * self.interval

  @property
  def step(self) -> float:
    """The standard deviation of the change of the logarithm of a price in one interval."""
    return self.volatility * math.sqrt(self.interval)

  @property
  def discounts(self) -> Float[np.ndarray, 'dates']:
    """What a payment at each date is worth today."""
    return np.exp(-self.rate * self.interval * np.arange(1, self.dates + 1))


def prices(option: Option, rng: np.random.Generator, pairs: int) -> Float[np.ndarray, 'N dates assets']:
  """Draws paths of the prices at the dates. The second half of the paths has the mirrored changes of the first half.

  Args:
    option: The option.
    rng: The source of the draws.
    pairs: The number of paths in each half.
  """
  normal = rng.standard_normal((pairs, option.dates, option.assets))
  changes = option.drift + option.step * np.concatenate([normal, -normal])
  return option.start * np.exp(changes.cumsum(axis=1))


def payoffs(option: Option, paths: Float[Array | np.ndarray, '*rest assets']) -> Any:
  """Returns what exercising pays at these prices, without discount, `[*rest]`, as an array of the same kind."""
  gain = option.strike - paths[..., 0] if option.assets == 1 else paths.max(axis=-1) - option.strike
  return gain.clip(0.0)


def paid(
  option: Option, paths: Float[np.ndarray, 'N dates assets'], stops: Bool[np.ndarray, 'N dates']
) -> Float[np.ndarray, 'N']:
  """Returns what each path is worth today if it is exercised at its first stop, or at the last date if it has none."""
  stops = stops.copy()
  stops[:, -1] = True
  first = stops.argmax(axis=1)
  return (payoffs(option, paths) * option.discounts)[np.arange(len(paths)), first]


def lattice_value(option: Option, steps: int) -> float:
  """Returns the value by a binomial lattice of one or two assets, which is exact as the number of steps grows.

  Args:
    option: The option on at most two assets.
    steps: The steps of the lattice between two dates.

  Raises:
    ValueError: The option has more assets, for which a lattice would be too large.
  """
  if option.assets > 2:
    raise ValueError(f'assets = {option.assets}: a lattice takes at most 2; fix: compare with a published interval')
  total, length = steps * option.dates, option.interval / steps
  jump = option.volatility * math.sqrt(length)
  up = (math.exp((option.rate - option.dividend) * length) - math.exp(-jump)) / (math.exp(jump) - math.exp(-jump))

  def exercised(level: int) -> np.ndarray:
    line = option.start * np.exp(jump * np.arange(-level, level + 1, 2))
    return payoffs(option, np.stack(np.meshgrid(*[line] * option.assets, indexing='ij'), axis=-1))

  value = exercised(total)
  for level in range(total - 1, -1, -1):
    for axis in range(option.assets):
      low, high = (np.take(value, range(start, level + 1 + start), axis) for start in (0, 1))
      value = (1 - up) * low + up * high
    value = value * math.exp(-option.rate * length)
    if level and level % steps == 0:
      value = np.maximum(value, exercised(level))
  return float(value.reshape(()))

"""What a search may set, and what it knows of the arms that it has tried."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from espo_jax.configs import ConfigError

Setting = Any  # a value of a config's field


@dataclasses.dataclass(frozen=True)
class Between:
  """The numbers between two numbers, both included.

  Attributes:
    low: The lowest number. If both are whole, all numbers are.
    high: The highest number.
    log: Whether the logarithms of the numbers are equally likely, instead of the numbers.
  """

  low: float
  high: float
  log: bool = False

  def __post_init__(self) -> None:
    """Raises ConfigError if there are no numbers between them."""
    if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
      raise ConfigError([f'{self}: no numbers; fix: two finite numbers, the lower one first'])
    if self.log and self.low <= 0:
      raise ConfigError([f'{self}: {self.low} has no logarithm; fix: a number above 0'])

  @property
  def whole(self) -> bool:
    """Whether the numbers are whole."""
    return isinstance(self.low, int) and isinstance(self.high, int)

  @property
  def ends(self) -> tuple[Setting, ...]:
    """The values with which a config is checked before anything runs."""
    return self.low, self.high


@dataclasses.dataclass(frozen=True)
class OneOf:
  """Values without an order.

  Attributes:
    values: At least two of them.
  """

  values: tuple[str | float | int | bool | None, ...]

  def __post_init__(self) -> None:
    """Raises ConfigError if there is nothing to choose."""
    if len(set(self.values)) != len(self.values) or len(self.values) < 2:
      raise ConfigError([f'{self}: nothing to choose; fix: at least two different values'])

  @property
  def ends(self) -> tuple[Setting, ...]:
    """The values with which a config is checked before anything runs."""
    return self.values


Space = Mapping[str, Between | OneOf]  # by the dotted name of the field


class Tried(NamedTuple):
  """An arm that a search has proposed, after its runs.

  Attributes:
    settings: What was proposed, by the dotted names of the fields.
    value: The accuracy that the search raises; None if no run of the arm has one.
    updates: The updates after which the value was measured.
    whole: Whether all runs of the arm came to their own ends. Otherwise an early end ended some.
  """

  settings: Mapping[str, Setting]
  value: float | None
  updates: int
  whole: bool


Proposer = Callable[[Space, Sequence[Tried], int], dict[str, Setting]]  # (space, arms so far, seed) -> the next arm's fields


@dataclasses.dataclass(frozen=True, kw_only=True)
class Search:
  """The arms of a sweep that are proposed one by one, each from the results of those before.

  Attributes:
    space: The values that each field may have, by its dotted name.
    arms: The number of arms that are proposed.
    by: The name of a search of `sweep.searches`.
    options: The options of that search.
    seed: The seed of its random numbers.
  """

  space: Space
  arms: int
  by: str = 'tpe'
  options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  seed: int = 0

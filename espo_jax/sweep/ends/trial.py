"""What an early end reads of a comparison, and the rule that all of them keep: the best run so far goes on."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int


class Trial(NamedTuple):
  """A run that is over.

  Attributes:
    settings: The fields of the run's config by their dotted names.
    updates: The numbers of the updates whose accuracy is known, in order.
    accuracy: The training accuracy after each of them.
    whole: Whether the run came to its own end. Otherwise an early end ended it.
  """

  settings: Mapping[str, Any]
  updates: Int[np.ndarray, 'T']
  accuracy: Float[np.ndarray, 'T']
  whole: bool

  def final(self, tail: int) -> float:
    """Returns the mean accuracy of the last `tail` updates."""
    return float(self.accuracy[-tail:].mean())


class Trials(NamedTuple):
  """All that is known before a run begins. It is read from the disk, so it is the same after an interruption.

  Attributes:
    seed: The seed of the runs.
    updates: The number of updates of a run that is not ended.
    settings: The fields of the run's config by their dotted names.
    earlier: The earlier runs of the same seed, in the order of the arms.
  """

  seed: int
  updates: int
  settings: Mapping[str, Any]
  earlier: Sequence[Trial]

  @property
  def whole(self) -> list[Trial]:
    """The earlier runs that came to their own end and have a known accuracy."""
    return [trial for trial in self.earlier if trial.whole and trial.accuracy.size]

  def best(self, tail: int) -> float:
    """Returns the highest final accuracy of an earlier whole run; -inf without one."""
    return max((trial.final(tail) for trial in self.whole), default=-np.inf)


Judge = Callable[[int, float], str]  # (update, training accuracy) -> the reason to end the run now, '' to go on
EarlyEnd = Callable[[Trials], Judge]


def sparing_the_best(end: EarlyEnd) -> EarlyEnd:
  """Returns an early end that decides alike, but never ends the best run so far.

  A run is the best so far if its accuracy is at least that of every earlier run at the same update. It is also the best if the
  highest accuracy that it has reached is at least that of every earlier run.
  """

  def begin(trials: Trials) -> Judge:
    judge, reached = end(trials), -np.inf
    record = max((float(trial.accuracy.max()) for trial in trials.earlier if trial.accuracy.size), default=-np.inf)

    def judged(update: int, accuracy: float) -> str:
      nonlocal reached
      reached = max(reached, accuracy)
      reason = judge(update, accuracy)
      is_best = reached >= record or all(accuracy >= _at(trial, update) for trial in trials.earlier)
      return '' if is_best else reason

    return judged

  return begin


def _at(trial: Trial, update: int) -> float:
  """Returns the accuracy of a run after an update, or the last one before it; -inf if it had not begun."""
  known = int(np.searchsorted(trial.updates, update, side='right'))
  return float(trial.accuracy[known - 1]) if known else -np.inf

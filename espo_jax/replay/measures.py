"""What ending rows early saves and loses, as shares of all rows and in tokens per solved problem."""

import math
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array, Bool, Float, Integer


class Measured(NamedTuple):
  """Of rows under a stop rule, against the same rows unstopped. Shares are fractions of one, nan where there is no such row."""

  stop_rate: float
  saved: float  # of all tokens
  true_positives: float  # rows stopped, of those that would have been wrong
  false_positives: float  # rows stopped, of those that would have been right: what is lost
  wrongly_stopped: float  # rows that would have been right, of those stopped
  tokens_per_solved: float
  solved: float  # rows that are right and not stopped, of all rows


def measure(
  length: Integer[Array | np.ndarray, '... N'],
  stopped: Bool[Array | np.ndarray, '... N'],
  full_length: Integer[Array | np.ndarray, 'N'],
  correct: Float[Array | np.ndarray, 'N'],
  weight: Float[Array | np.ndarray, 'N'],
) -> list[Measured]:
  """What each of some ways to end the rows comes to.

  Args:
    length: Tokens that count.
    stopped: Whether the rule ended the row.
    full_length: Tokens up to the row's own end.
    correct: 1 where the row, not stopped, is right.
    weight: How many rows a row stands for.
  """
  length, full_length, correct, weight = (np.asarray(x, np.float64) for x in (length, full_length, correct, weight))
  right, wrong = weight * correct, weight * (1 - correct)

  def one(length: Array | np.ndarray, stopped: Array | np.ndarray) -> Measured:
    tpr, fpr = (_ratio((kind * stopped).sum(), kind.sum()) for kind in (wrong, right))
    return Measured(
      stop_rate=_ratio((weight * stopped).sum(), weight.sum()),
      saved=1 - _ratio((weight * length).sum(), (weight * full_length).sum()),
      true_positives=tpr,
      false_positives=fpr,
      wrongly_stopped=_ratio((right * stopped).sum(), (weight * stopped).sum()),
      tokens_per_solved=expected_tokens(
        success=_ratio(right.sum(), weight.sum()),
        success_tokens=_mean(full_length, right * ~stopped),
        failure_tokens=_mean(full_length, wrong * ~stopped),
        true_positives=tpr,
        false_positives=fpr,
        true_alarm_tokens=_mean(length, wrong * stopped),
        false_alarm_tokens=_mean(length, right * stopped),
      ),
      solved=_ratio((right * ~stopped).sum(), weight.sum()),
    )

  return [one(*ends) for ends in zip(np.atleast_2d(length), np.atleast_2d(stopped), strict=True)]


def expected_tokens(
  *,
  success: float,
  success_tokens: float,
  failure_tokens: float,
  true_positives: float,
  false_positives: float,
  true_alarm_tokens: float,
  false_alarm_tokens: float,
  reset_tokens: float = 0.0,
) -> float:
  """The tokens that attempts take until one succeeds, if attempts are stopped on an alarm (after arXiv 2301.10846).

  Each attempt is independent of those before it. Without a reset cost it is the tokens of an attempt over the chance that it
  ends in success; an alarm of no kind makes its own tokens irrelevant.

  Args:
    success: The chance of an attempt that is not stopped.
    success_tokens: The tokens of an attempt that succeeds and is not stopped.
    failure_tokens: The tokens of an attempt that fails and is not stopped.
    true_positives: The share of failures that are stopped.
    false_positives: The share of successes that are stopped.
    true_alarm_tokens: Until a failure is stopped.
    false_alarm_tokens: Until a success is stopped.
    reset_tokens: What it takes to begin another attempt.
  """
  right_alarm = true_positives * (true_alarm_tokens + reset_tokens) if true_positives > 0 else 0.0
  wrong_alarm = false_positives * (false_alarm_tokens + reset_tokens) if false_positives > 0 else 0.0
  unnoticed = (1 - true_positives) * (failure_tokens + reset_tokens) if true_positives < 1 else 0.0
  solved = success * (1 - false_positives)
  return success_tokens + (success * wrong_alarm + (1 - success) * (right_alarm + unnoticed)) / solved if solved > 0 else np.inf


def _mean(values: Array | np.ndarray, weight: Array | np.ndarray) -> float:
  return _ratio((weight * values).sum(), weight.sum())


def _ratio(part: Any, whole: Any) -> float:
  return float(part) / float(whole) if whole else math.nan

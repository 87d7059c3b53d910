"""Measures what ending rows early saves and loses, as shares of rows and in tokens per solved problem."""

import math
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array, Bool, Float, Integer


class Measured(NamedTuple):
  """Measures of rows under a stop rule against the same rows unstopped.

  Shares are fractions of one. A share is nan if there are no rows to take it of.
  """

  stop_rate: float
  saved: float  # the share of all tokens that is saved
  true_positives: float  # the share of the wrong rows that is stopped
  false_positives: float  # the share of the right rows that is stopped, which is what is lost
  wrongly_stopped: float  # the share of the stopped rows that would have been right
  tokens_per_solved: float
  solved: float  # the share of all rows that is right and not stopped


def measure(
  length: Integer[Array | np.ndarray, '... N'],
  stopped: Bool[Array | np.ndarray, '... N'],
  full_length: Integer[Array | np.ndarray, 'N'],
  correct: Float[Array | np.ndarray, 'N'],
  weight: Float[Array | np.ndarray, 'N'],
) -> list[Measured]:
  """Measures one or several ways to end the same rows.

  Args:
    length: The tokens of each row that count.
    stopped: Whether the rule ended the row.
    full_length: The tokens of each row up to its own end.
    correct: 1 for a row that is right if it is not stopped, else 0.
    weight: The number of rows that each row stands for.
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
  """Computes the expected tokens until an attempt succeeds, if attempts are stopped on an alarm (after arXiv 2301.10846).

  Each attempt is independent of those before it. Without a reset cost the result is the expected tokens of an attempt divided
  by the probability that it ends in success. The tokens of an alarm that never occurs are ignored.

  Args:
    success: The probability that an attempt succeeds if it is not stopped.
    success_tokens: The tokens of an attempt that succeeds and is not stopped.
    failure_tokens: The tokens of an attempt that fails and is not stopped.
    true_positives: The share of failures that are stopped.
    false_positives: The share of successes that are stopped.
    true_alarm_tokens: The tokens until a failure is stopped.
    false_alarm_tokens: The tokens until a success is stopped.
    reset_tokens: The cost of beginning another attempt.
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

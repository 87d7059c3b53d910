"""How right answers are by their length, on which First Finish Search rests.

Over all answers the shorter ones are mostly those to easy problems. The decoder chooses within a problem, so what counts is the
length of an answer among those to the same problem.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from espo_jax import decoders, monitor
from espo_jax.evaluate.reading import Answered

_FIFTHS = 5


def by_length(answered: Answered) -> dict[str, Any]:
  """Returns what `ffs` rests on, from the answers that ended by themselves.

  Returns:
    A dictionary with these entries, in which None stands for what cannot be computed:

    | entry | content |
    |---|---|
    | `within` | the accuracy of each fifth of the answers to one problem, from short to long |
    | `overall` | the accuracy of each fifth of all answers, from short to long |
    | `right_minus_wrong` | the mean length of right answers minus that of wrong ones, each less the mean of its problem |
    | `turn` | the result of `least_length`, in tokens beyond the mean of the problem |
  """
  beyond, fifths, lengths, correct = [], [], [], []
  for samples, grades in zip(answered.problems, answered.correct, strict=True):
    if samples.ended.any():
      its = samples.lengths[samples.ended].astype(np.float64)
      lengths.append(its)
      beyond.append(its - its.mean())
      fifths.append(_fifth_of_each(its))
      correct.append(grades[samples.ended])
  if not lengths:
    return {'within': [None] * _FIFTHS, 'overall': [None] * _FIFTHS, 'right_minus_wrong': None, 'turn': None}
  relative, right = np.concatenate(beyond), np.concatenate(correct)
  differ = right.any() and not right.all()
  return {
    'within': _of_fifths(np.concatenate(fifths), right),
    'overall': _of_fifths(_fifth_of_each(np.concatenate(lengths)), right),
    'right_minus_wrong': float(relative[right].mean() - relative[~right].mean()) if differ else None,
    'turn': decoders.least_length(relative, right),
  }


def _fifth_of_each(lengths: Float[np.ndarray, 'N']) -> Int[np.ndarray, 'N']:
  """Returns the fifth that each answer belongs to by length, from 0 for the shortest ones."""
  return _FIFTHS * lengths.argsort(kind='stable').argsort() // len(lengths)


def _of_fifths(fifths: Int[np.ndarray, 'N'], right: Bool[np.ndarray, 'N']) -> list[float | None]:
  """Returns the share of right answers in each fifth; None for an empty one."""
  return [float(right[fifths == i].mean()) if (fifths == i).any() else None for i in range(_FIFTHS)]


def format_lengths(found: Mapping[str, Any]) -> list[str]:
  """Formats the accuracy by length, and a warning where `ffs` rests on what does not hold."""
  rows: list[tuple[str, ...]] = [('right, % of the answers that ended', 'shortest fifth', '2nd', '3rd', '4th', 'longest')]
  for name, label in (('within', 'among those to one problem'), ('overall', 'among all')):
    rows.append((label, *('-' if share is None else f'{100 * share:.0f}' for share in found[name])))
  lines = ['', monitor.format_columns(rows)]
  difference, turn = found['right_minus_wrong'], found['turn']
  if difference is not None and difference >= 0:
    lines.append(
      f'ffs: right answers are longer than wrong ones to the same problem, by {difference:.1f} tokens on average, so that '
      'ending first is no sign of a right one; fix: another decoder'
    )
  elif turn is not None:
    lines.append(
      'ffs: wrong answers spread more in length than right ones to the same problem, so an answer is less likely right the '
      f'further it is below {turn:+.1f} tokens from the mean of its problem; fix: --options least=N, or another decoder'
    )
  return lines

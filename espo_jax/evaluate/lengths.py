"""How right answers are by their length, on which First Finish Search rests.

Over all answers the shorter ones are mostly those to easy problems. The decoder chooses within a problem, so what counts is the
length of an answer among those to the same problem.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from espo_jax import decoders, monitor
from espo_jax.evaluate.reading import Graded

_FIFTHS = 5


def by_length(graded: Graded) -> dict[str, Any]:
  """Returns what `ffs` rests on, from the answers that ended by themselves.

  Returns:
    A dictionary with these entries, in which None stands for what cannot be computed:

    | entry | content |
    |---|---|
    | `within` | the accuracy of each fifth of the answers to one problem, from short to long |
    | `overall` | the accuracy of each fifth of all answers, from short to long |
    | `right_minus_wrong` | the mean length of right answers minus that of wrong ones, averaged over problems that have both |
    | `turn` | the result of `least_length` for these problems, in tokens beyond the mean of the problem |
  """
  beyond, fifths, lengths, correct, mixed, differences = [], [], [], [], [], []
  for samples, grades in zip(graded.problems, graded.correct, strict=True):
    if samples.ended.any():
      its, good = samples.lengths[samples.ended].astype(np.float64), grades[samples.ended]
      both = bool(good.any() and not good.all())
      lengths.append(its)
      beyond.append(its - its.mean())
      fifths.append(_fifth_of_each(its))
      correct.append(good)
      mixed.append(np.full(len(its), both))
      if both:
        differences.append(its[good].mean() - its[~good].mean())
  if not lengths:
    return {'within': [None] * _FIFTHS, 'overall': [None] * _FIFTHS, 'right_minus_wrong': None, 'turn': None}
  relative, right, among = np.concatenate(beyond), np.concatenate(correct), np.concatenate(mixed)
  return {
    'within': _of_fifths(np.concatenate(fifths), right),
    'overall': _of_fifths(_fifth_of_each(np.concatenate(lengths)), right),
    'right_minus_wrong': float(np.mean(differences)) if differences else None,
    'turn': decoders.least_length(relative[among], right[among]),
  }


def _fifth_of_each(lengths: Float[np.ndarray, 'N']) -> Int[np.ndarray, 'N']:
  """Returns the fifth that each answer belongs to by length, from 0 for the shortest ones."""
  ranks = lengths.argsort(kind='stable').argsort()
  return _FIFTHS * (2 * ranks + 1) // (2 * len(lengths))  # of the middle of each rank, so that few answers are not all short


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

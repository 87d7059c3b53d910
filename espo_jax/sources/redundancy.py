"""How redundant a thought is, by self-braking tuning: how long it goes on behind its first right answer."""

from collections.abc import Sequence

import numpy as np

from espo_jax.sources.judge import Judge
from espo_jax.sources.traces import expression

MARKERS = r'(?i)\b(?:wait|hmm|alternatively|however|let me (?:re|double-? ?)?check|double-? ?check|verify|verification)\b'
BRAKING = '\nThe answer is found and checked, so the thinking ends here.\n'


def redundancy(efficiency: float, markers: float, *, marker_weight: float = 0.1) -> float:
  """Computes `w kappa + (1 - w) (1 - eta)`, the score of a thought, from 0 to 1.

  Args:
    efficiency: `eta`, the steps up to the first right answer as a share of all steps.
    markers: `kappa`, the tokens of words of doubt as a share of all tokens.
    marker_weight: `w`.
  """
  return marker_weight * markers + (1 - marker_weight) * (1 - efficiency)


class Score:
  """Scores the beginnings of a thought. The tokens of each step, and of the words of doubt in it, are counted once."""

  def __init__(self, judge: Judge, steps: Sequence[str], first: int, markers: str, marker_weight: float):
    """Counts the tokens.

    Args:
      judge: The judge of the rollouts.
      steps: The steps of the thought.
      first: The index of the step with the first right answer.
      markers: A regular expression of the words of doubt.
      marker_weight: The weight of their share.

    Raises:
      ValueError: An option is out of range.
    """
    if not 0 <= marker_weight <= 1:
      raise ValueError(f'marker_weight={marker_weight}: out of range; fix: a number in [0, 1]')
    pattern = expression('markers', markers)
    self._first, self._weight = first, marker_weight
    self._tokens = np.cumsum([0, *(judge.tokens(step) for step in steps)])
    self._marked = np.cumsum([0, *(sum(judge.tokens(found[0]) for found in pattern.finditer(step)) for step in steps)])

  def of_first(self, count: int) -> float:
    """Returns the score of the first `count` steps; `eta` is 1 if none of them has the right answer."""
    efficiency = min((self._first + 1) / count, 1.0) if count else 1.0
    share = float(self._marked[count] / max(self._tokens[count], 1))
    return redundancy(efficiency, share, marker_weight=self._weight)

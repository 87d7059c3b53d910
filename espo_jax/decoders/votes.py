"""Votes of samples for the answers that they state."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float


class Vote(NamedTuple):
  """The result of a vote.

  Attributes:
    sample: The earliest sample with the winning answer; None if no sample has a vote.
    share: The part of all weight that the winning answer has; 0 if no sample has a vote.
  """

  sample: int | None
  share: float


def vote(answers: Sequence[str], weights: Float[np.ndarray, 'G']) -> Vote:
  """Lets samples vote for answers. Among answers of equal weight the one that was stated first wins.

  Args:
    answers: The answer that each sample states; a sample with '' has no vote.
    weights: The weight of each sample, at least 0.
  """
  found: dict[str, list[int]] = {}
  for sample, answer in enumerate(answers):
    if answer:
      found.setdefault(answer, []).append(sample)
  if not found:
    return Vote(None, 0.0)
  # The sums are exact, so equal sets of weights tie in whatever order they were cast.
  sums = {answer: math.fsum(weights[voters]) for answer, voters in found.items()}
  winner = max(sums, key=lambda answer: sums[answer])
  total = math.fsum(sums.values())
  return Vote(found[winner][0], sums[winner] / total if total else 0.0)

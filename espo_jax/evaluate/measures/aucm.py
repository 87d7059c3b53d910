"""Abstention: a stopped answer is none, and the question is whether there would have been a right one."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Bool, Int

from espo_jax.evaluate.measures.registered import register
from espo_jax.registry import source


class Abstention(NamedTuple):
  """The confusion matrix of answers, and rates from it. A rate is nan if there are no answers to take it of.

  Attributes:
    answerable_right: The answers to answerable problems that are right.
    answerable_wrong: The answers to answerable problems that are wrong.
    answerable_abstained: The answers to answerable problems that were stopped.
    unanswerable_wrong: The answers to other problems, all of which are wrong.
    unanswerable_abstained: The answers to other problems that were stopped.
    accuracy: The right answers among all answers to answerable problems.
    abstention: The stopped answers among all answers to other problems.
    over_abstention: The answers that were stopped although right, among all answers to answerable problems.
  """

  answerable_right: int
  answerable_wrong: int
  answerable_abstained: int
  unanswerable_wrong: int
  unanswerable_abstained: int
  accuracy: float
  abstention: float
  over_abstention: float


@register('aucm')
@source('the confusion matrix of answerable and unanswerable problems, arXiv 2407.16221; what is answerable here is ours')
def aucm(
  stopped: Bool[Array | np.ndarray, 'N'], right: Bool[Array | np.ndarray, 'N'], problem: Int[Array | np.ndarray, 'N']
) -> Abstention:
  """Counts answers by whether their problem is answerable, and by whether they are right, wrong or stopped.

  A problem is answerable if at least one of its answers is right when all are decoded to their own ends [I]. With one answer to
  each problem no answer to an answerable problem is wrong.

  Args:
    stopped: Whether a stop rule ended the answer.
    right: Whether the answer is right if it is decoded to its own end.
    problem: The position of the problem in the test split.
  """
  stopped, right, problem = (np.asarray(x) for x in (stopped, right, problem))
  answerable = np.isin(problem, problem[right])

  def count(kind: np.ndarray) -> int:
    return int(kind.sum())

  def share(kind: np.ndarray, of: np.ndarray) -> float:
    return count(kind & of) / count(of) if of.any() else float('nan')

  return Abstention(
    count(answerable & right & ~stopped),
    count(answerable & ~right & ~stopped),
    count(answerable & stopped),
    count(~answerable & ~stopped),
    count(~answerable & stopped),
    share(right & ~stopped, answerable),
    share(stopped, ~answerable),
    share(right & stopped, answerable),
  )

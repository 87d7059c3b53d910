"""Sorts problems by how often they are solved, to see on which of them a stop rule saves its tokens."""

import numpy as np
from jaxtyping import Array, Bool, Float, Integer

THIRDS = ('hard', 'middle', 'easy')


def thirds(
  correct: Float[Array | np.ndarray, 'F N'],
  problem: Integer[Array | np.ndarray, 'F N'],
  weight: Float[Array | np.ndarray, 'F N'],
) -> Bool[np.ndarray, '3 F N']:
  """Returns which rows belong to the hard, the middle and the easy third of the problems.

  Problems with the same share of right rows are taken in their order, so that the thirds have equally many problems. A problem
  without weight is in no third.

  Args:
    correct: 1 for a right row, else 0.
    problem: The index of each row's problem in its rollout.
    weight: The number of rows that each row stands for.
  """
  correct, problem, weight = np.asarray(correct), np.asarray(problem), np.asarray(weight)
  each = problem + np.arange(len(problem))[:, None] * (problem.max() + 1)  # rollouts have different problems
  _, each = np.unique(each, return_inverse=True)
  each = each.reshape(problem.shape)
  right, rows = (np.bincount(each.reshape(-1), x.reshape(-1)) for x in (correct * weight, weight))
  share = np.divide(right, rows, out=np.zeros_like(right), where=rows > 0)
  counted = np.flatnonzero(rows > 0)
  third = np.full(len(share), -1)
  third[counted[np.argsort(share[counted], kind='stable')]] = np.arange(len(counted)) * 3 // len(counted)
  return third[each] == np.arange(3)[:, None, None]

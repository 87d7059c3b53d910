"""Long answers against short ones that cost as many floating-point operations."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Bool, Float

from espo_jax import monitor
from espo_jax.evaluate.equal_tokens import leads
from espo_jax.evaluate.measures.registered import register
from espo_jax.registry import source


class FlopMatched(NamedTuple):
  """The comparison at equal operations.

  Attributes:
    samples: The number of short answers that cost as much as the long ones, as the quotient of the means.
    long: The probability that one of the long answers is right.
    short: The probability that one of so many short answers is right.
    lead: The former probability minus the latter.
    interval: The 95 % bootstrap interval of the lead over problems.
    enough: Whether each problem has so many short answers. Otherwise `short` is of as many as there are, which is too low.
  """

  samples: float
  long: float
  short: float
  lead: float
  interval: tuple[float, float]
  enough: bool


@register('flop_matched_eval')
@source('best of n against one long search at equal FLOPs, arXiv 2504.07052; what lies between two numbers of samples is ours')
def flop_matched_eval(
  right: Bool[Array | np.ndarray, 'P N'],
  flops: Float[Array | np.ndarray, 'P N'],
  long_right: Bool[Array | np.ndarray, 'P M'],
  long_flops: Float[Array | np.ndarray, 'P M'],
  *,
  best_of: int = 1,
) -> FlopMatched:
  """Compares the best of some long answers to a problem with the best of so many short ones as cost the same.

  The best of `n` is right if one of `n` is, as where a verifier chooses. Its probability is the unbiased pass@n. Between two
  numbers of samples it draws the larger one for a part of the problems, so that accuracy is linear in cost [I]. Long answers
  that cost less than one short answer are compared with one.

  Args:
    right: Whether each short answer is right.
    flops: The operations of each short answer.
    long_right: Whether each long answer is right.
    long_flops: The operations of each long answer.
    best_of: The number of long answers that are drawn from those of a problem.
  """
  right, flops, long_right, long_flops = (np.asarray(x) for x in (right, flops, long_right, long_flops))
  number = right.shape[1]
  counts = np.arange(1, number + 1)
  passes = np.stack([monitor.pass_at_k(right.sum(axis=1), number, int(k)) for k in counts], axis=1)
  accuracy = monitor.pass_at_k(long_right.sum(axis=1), long_right.shape[1], best_of)[:, None]
  spent, each = best_of * long_flops.mean(axis=1, keepdims=True), flops.mean(axis=1, keepdims=True)
  (lead,) = leads(accuracy, spent, passes, each * counts)
  low, high = lead['interval']
  samples, long = float(spent.mean() / each.mean()), float(accuracy.mean())
  return FlopMatched(samples, long, long - lead['value'], lead['value'], (low, high), samples <= number)

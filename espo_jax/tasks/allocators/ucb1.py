"""UCB1: the arm with the highest upper bound of its mean gain."""

import numpy as np
from jaxtyping import Bool, Float, Int

from espo_jax.registry import source
from espo_jax.tasks.allocators.arms import Bandit, curriculum, tallies, tally
from espo_jax.tasks.allocators.registered import Allocator, Memory, register


def upper_bounds(
  gains: Float[np.ndarray, 'K'], pulls: Int[np.ndarray, 'K'], pending: Int[np.ndarray, 'K'], exploration: float
) -> Float[np.ndarray, 'K']:
  """Returns `mean + sqrt(exploration ln t / n)` of each arm; inf for one that was never picked.

  Args:
    gains: The sum of each arm's gains.
    pulls: The number of gains in each sum.
    pending: The further picks of each arm, whose gains are unknown. They count in `n` and `t`.
    exploration: The factor of the width of the bound, squared.
  """
  n = pulls + pending
  width = np.sqrt(exploration * np.log(max(n.sum(), 1)) / np.maximum(n, 1))
  return np.where(n > 0, gains / np.maximum(pulls, 1) + width, np.inf)


def bandit(exploration: float) -> Bandit:
  """Returns the bandit that picks the arm with the highest upper bound, and one that was never picked before all others."""

  def pick(memory: Memory, pending: Int[np.ndarray, 'K'], free: Bool[np.ndarray, 'K'], rng: np.random.Generator) -> int:
    del rng
    bounds = upper_bounds(memory['gains'], memory['pulls'], pending, exploration)
    return int(np.where(free, bounds, -np.inf).argmax())

  return Bandit(tallies, pick, tally)


@register('ucb1')
@source('UCB1, Auer, Cesa-Bianchi and Fischer 2002, and arXiv 1904.07272', 'exploration')
def ucb1(*, bands: int = 3, exploration: float = 2.0) -> Allocator:
  """Asks problems of the arm with the highest `mean + sqrt(exploration ln t / n)`, prompt by prompt.

  `mean` is the mean gain of the arm's `n` prompts among all `t`. A prompt gains `4 p (1 - p)`, where `p` is the mean
  correctness of its group [I]. The prompts that a rollout has so far count in `n` and `t`, and not in the mean [I]. An arm is a
  band of problems by the mean correctness of their last group [I]. An arm whose problems are all in the rollout is passed
  over [I]. UCB1 itself picks one arm at a time, and knows its gain before the next pick. Every problem has `rollout.samples`
  rows.

  Args:
    bands: The number of arms between problems whose last group was all wrong and those for which it was all right.
    exploration: The factor of the bound's width, squared.
  """
  return curriculum(bands, bandit(exploration))

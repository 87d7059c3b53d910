"""EXP3: arms are drawn by weights, which grow with what they gained, whoever decides on the gains."""

import numpy as np
from jaxtyping import Bool, Float, Int

from espo_jax.registry import source
from espo_jax.tasks.allocators.arms import Bandit, curriculum, free_arms
from espo_jax.tasks.allocators.registered import Allocator, Memory, register


def probabilities(logs: Float[np.ndarray, 'K'], free: Bool[np.ndarray, 'K'], rate: float) -> Float[np.ndarray, 'K']:
  """Returns `(1 - rate) w / sum w + rate / K` over the free arms, and 0 for the others.

  Args:
    logs: The logarithm of each arm's weight.
    free: Whether each arm can be drawn, which is true of at least one.
    rate: The share of the draws that is uniform.
  """
  weights = np.where(free, np.exp(logs.astype(float) - logs[free].max()), 0.0)
  return (1 - rate) * weights / weights.sum() + rate * free / free.sum()


def bandit(rate: float) -> Bandit:
  """Returns the bandit that draws arms by their weights."""

  def pick(memory: Memory, pending: Int[np.ndarray, 'K'], free: Bool[np.ndarray, 'K'], rng: np.random.Generator) -> int:
    del pending
    return int(rng.choice(len(free), p=probabilities(memory['logs'], free, rate)))

  def learn(memory: Memory, asked: Memory, arms: Int[np.ndarray, 'n'], gains: Float[np.ndarray, 'n']) -> Memory:
    count = len(memory['logs'])
    chances = probabilities(asked['logs'], free_arms(asked, count), rate)
    logs = memory['logs'] + rate / count * np.bincount(arms, gains / chances[arms], minlength=count)
    return memory | {'logs': (logs - logs.max()).astype(np.float32)}  # only differences matter, and rounding grows with size

  return Bandit(lambda count: {'logs': np.zeros(count, np.float32)}, pick, learn)


@register('exp3')
@source('EXP3, Auer, Cesa-Bianchi, Freund and Schapire 2002, and arXiv 1904.07272')
def exp3(*, bands: int = 3, rate: float = 0.1) -> Allocator:
  """Draws the arm of each prompt with probability `(1 - rate) w / sum w + rate / K`.

  A gain `g` adds `rate g / (P K)` to the logarithm of the arm's weight `w`. `K` is the number of arms, in the probability of
  those that have problems. `P` is the probability with which the rollout's first prompt gets the arm [I]. It is that of all its
  prompts until all problems of an arm are in the rollout, after which the other arms share its probability. All prompts of a
  rollout are drawn with the same weights [I]. A prompt gains `4 p (1 - p)`, where `p` is the mean correctness of its group [I].
  An arm is a band of problems by the mean correctness of their last group [I]. Every problem has `rollout.samples` rows.

  Args:
    bands: The number of arms between problems whose last group was all wrong and those for which it was all right.
    rate: The share of uniform draws, which is the rate of learning, too, above 0 and at most 1.
  """
  return curriculum(bands, bandit(rate))

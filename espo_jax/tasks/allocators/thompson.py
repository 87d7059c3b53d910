"""Thompson sampling: an arm is picked as often as it is believed to be the best."""

import numpy as np
from jaxtyping import Bool, Int

from espo_jax.registry import source
from espo_jax.tasks.allocators.arms import Bandit, curriculum, tallies, tally
from espo_jax.tasks.allocators.registered import Allocator, Memory, register


def bandit() -> Bandit:
  """Returns the bandit that picks the arm with the highest draw from the posteriors of the mean gains."""

  def pick(memory: Memory, pending: Int[np.ndarray, 'K'], free: Bool[np.ndarray, 'K'], rng: np.random.Generator) -> int:
    del pending
    won = memory['gains'].astype(float)
    lost = np.maximum(memory['pulls'] - won, 0.0)  # the rounding of a sum may exceed the number of its gains
    return int(np.where(free, rng.beta(1 + won, 1 + lost), -np.inf).argmax())

  return Bandit(tallies, pick, tally)


@register('thompson')
@source('Thompson 1933, and arXiv 1904.07272')
def thompson(*, bands: int = 3) -> Allocator:
  """Draws a mean gain of each arm from its posterior, prompt by prompt, and asks a problem of the highest arm.

  The posterior is `Beta(1 + s, 1 + n - s)`, where `s` is the sum of the arm's `n` gains. A prompt gains `4 p (1 - p)`, where
  `p` is the mean correctness of its group [I]. A gain between 0 and 1 counts as that share of a success [I]. An arm is a band
  of problems by the mean correctness of their last group [I]. An arm whose problems are all in the rollout is passed over [I].
  Every problem has `rollout.samples` rows.

  Args:
    bands: The number of arms between problems whose last group was all wrong and those for which it was all right.
  """
  return curriculum(bands, bandit())

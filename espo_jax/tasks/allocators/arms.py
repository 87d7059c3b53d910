"""What the bandits have in common: problems with similar results form an arm, and an arm gains by groups of two kinds.

A pool has too many problems to learn about each of them, so a bandit chooses among bands of problems [I]. The arms are:

| arm | problems |
|---|---|
| 0 | those that were not seen yet |
| 1 | those whose last group was all wrong |
| 2 to `bands + 1` | those whose last group's mean correctness is in one of `bands` equal intervals between 0 and 1 |
| `bands + 2` | those whose last group was all right |

A problem moves to the arm of its last group.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from espo_jax.tasks.allocators.registered import Allocator, Memory, Seen
from espo_jax.tasks.allocators.stream import Stream

_BESIDE = 3  # arms that are no bands: not seen, all wrong, all right


class Bandit(NamedTuple):
  """A choice among arms, made of pure functions.

  Attributes:
    start: `count -> memory`, what is remembered of so many arms before the first pick.
    pick: `(memory, pending[K], free[K], rng) -> arm`, the arm of the next prompt. `pending` counts the prompts that each arm
      has in this rollout so far, whose gains are unknown. `free` says which arms have a problem left.
    learn: `(memory, asked, arms[n], gains[n]) -> memory`, what is remembered after these gains. `asked` is the memory with
      which the arms were picked.
  """

  start: Callable[[int], Memory]
  pick: Callable[[Memory, np.ndarray, np.ndarray, np.random.Generator], int]
  learn: Callable[[Memory, Memory, np.ndarray, np.ndarray], Memory]


def arm_of(mean: Float[np.ndarray, 'P'], bands: int) -> Int[np.ndarray, 'P']:
  """Returns the arm of problems that were seen: 1 for a mean of 0, `1 + ceil(bands mean)` between, `bands + 2` for 1.

  Args:
    mean: The mean correctness of each problem's last group.
    bands: The number of bands between 0 and 1.
  """
  return np.where(mean >= 1, bands + 2, 1 + np.ceil(bands * mean)).astype(np.int32)


def learning_signal(mean: Float[np.ndarray, 'P']) -> Float[np.ndarray, 'P']:
  """Returns `4 p (1 - p)`, the variance of a group's correctness over its highest value, which is 0 for groups of one kind."""
  return 4 * mean * (1 - mean)


def free_arms(memory: Memory, count: int) -> Bool[np.ndarray, 'K']:
  """Returns which of `count` arms have problems."""
  return np.bincount(memory['arm'], minlength=count) > 0


def tallies(count: int) -> Memory:
  """Returns what a bandit remembers of `count` arms before a pick: the number of each arm's picks, and the sum of its gains."""
  return {'pulls': np.zeros(count, np.int32), 'gains': np.zeros(count, np.float32)}


def tally(memory: Memory, asked: Memory, arms: Int[np.ndarray, 'n'], gains: Float[np.ndarray, 'n']) -> Memory:
  """Returns the memory with these gains counted."""
  del asked
  count = len(memory['pulls'])
  pulls = memory['pulls'] + np.bincount(arms, minlength=count)
  total = memory['gains'] + np.bincount(arms, gains, minlength=count)
  return memory | {'pulls': pulls.astype(np.int32), 'gains': total.astype(np.float32)}


def curriculum(bands: int, bandit: Bandit) -> Allocator:
  """Returns the allocator that asks a bandit for the arm of each prompt, and takes the pool's next problem of that arm.

  Args:
    bands: The number of bands between groups that are all wrong and groups that are all right.
    bandit: The choice of an arm.
  """
  count = bands + _BESIDE

  def init(pool: int) -> Memory:
    return {'arm': np.zeros(pool, np.int32)} | bandit.start(count)

  def choose(memory: Memory, stream: Stream, position: int, prompts: int) -> tuple[np.ndarray, int]:
    rng, left = stream.draws(position), np.bincount(memory['arm'], minlength=count)
    wanted = np.zeros(count, np.int32)
    for _ in range(prompts):
      wanted[bandit.pick(memory, wanted, wanted < left, rng)] += 1

    def skip(place: int, problem: int) -> bool:
      wanted[memory['arm'][problem]] -= 1
      return bool(wanted[memory['arm'][problem]] < 0)

    return stream.take(position, prompts, skip)

  def observe(memory: Memory, seen: Seen) -> Memory:
    known = seen.known
    mean, problems = np.nanmean(seen.correct[known], axis=1), seen.problems[known]
    found = bandit.learn(memory, seen.asked, seen.asked['arm'][problems], learning_signal(mean))
    arm = memory['arm'].copy()
    arm[problems] = arm_of(mean, bands)
    return found | {'arm': arm}

  return Allocator(init, choose, None, observe)

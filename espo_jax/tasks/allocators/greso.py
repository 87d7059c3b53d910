"""GRESO: problems whose groups were of one kind at their last visits are often passed over."""

import numpy as np

from espo_jax.registry import source
from espo_jax.tasks.allocators.registered import Allocator, Memory, Seen, register
from espo_jax.tasks.allocators.stream import Stream

_STEP, _LEAST, _MOST = 0.01, 0.05, 0.95  # by how much the two probabilities move, and their bounds
_VISITED = 0.01  # the least probability with which a problem is taken


def skip_probability(streak: int, again: float) -> float:
  """Returns the probability that a problem is passed over, `1 - max(again^streak, 0.01)`.

  Args:
    streak: The number of last visits at which its group was of one kind.
    again: The probability that a problem with a streak of 1 is taken.
  """
  return 1 - max(again**streak, _VISITED)


@register('greso')
@source('GRESO, arXiv 2506.02177', 'easy_above', 'hard_below', 'one_kind')
def greso(*, easy_above: float = 0.98, hard_below: float = 0.11, one_kind: float = 0.25) -> Allocator:
  """Passes a problem over with probability `1 - max(p^n, 0.01)`, where its last `n` groups were all right, or all wrong.

  There are two `p`, of easy and of hard problems, which start at 1/2. After each rollout each of them moves by 0.01 within
  [0.05, 0.95]: down if the share of such groups is at least its target, otherwise up. The targets are a third of `one_kind` for
  easy groups and two thirds for hard ones. In the first epoch no problem is passed over. Every problem has `rollout.samples`
  rows. GRESO then draws further groups in place of those of one kind: set `rollout.max_draws` above 1.

  Args:
    easy_above: The mean correctness from which a group counts as easy.
    hard_below: The mean correctness up to which a group counts as hard.
    one_kind: The share of groups of one kind that is aimed at.
  """
  targets = {'easy': one_kind / 3, 'hard': one_kind * 2 / 3}

  def init(pool: int) -> Memory:
    streaks = {kind: np.zeros(pool, np.int32) for kind in targets}
    return streaks | {f'take_{kind}': np.full((), 0.5, np.float32) for kind in targets}

  def choose(memory: Memory, stream: Stream, position: int, count: int) -> tuple[np.ndarray, int]:
    def skip(place: int, problem: int) -> bool:
      if place < stream.pool:
        return False
      chance = max(skip_probability(int(memory[kind][problem]), float(memory[f'take_{kind}'])) for kind in targets)
      return stream.chance(place) < chance

    return stream.take(position, count, skip)

  def observe(memory: Memory, seen: Seen) -> Memory:
    known = seen.known
    mean = np.nanmean(np.where(known[:, None], seen.correct, 0.0), axis=1)
    found = dict(memory)
    for kind, of_kind in (('easy', known & (mean >= easy_above)), ('hard', known & (mean <= hard_below))):
      streak = memory[kind].copy()
      streak[seen.problems[known]] = np.where(of_kind[known], streak[seen.problems[known]] + 1, 0)
      enough = of_kind.mean() >= targets[kind]
      moved = memory[f'take_{kind}'] + (-_STEP if enough else _STEP)
      found |= {kind: streak, f'take_{kind}': np.asarray(np.clip(moved, _LEAST, _MOST), np.float32)}
    return found

  return Allocator(init, choose, None, observe)

"""Pilot-Commit: a few rows of a problem decide whether it gets all of them."""

import numpy as np
from jaxtyping import Bool, Float

from espo_jax.registry import source
from espo_jax.tasks.allocators.registered import Allocator, Memory, Seen, register
from espo_jax.tasks.allocators.stream import Stream


def mean_correct(correct: Float[np.ndarray, 'P G']) -> Float[np.ndarray, 'P']:
  """Returns the share of right rows of each problem; nan for a problem without a row that is known."""
  known = ~np.isnan(correct)
  right, count = np.where(known, correct, 0.0).sum(axis=1), known.sum(axis=1)
  return np.where(count > 0, right / np.maximum(count, 1), np.nan)


@register('pilot_commit')
@source('Pilot-Commit, arXiv 2605.26606', 'low', 'high')
def pilot_commit(*, pilots: int = 8, low: float = 0.125, high: float = 0.75) -> Allocator:
  """Samples `pilots` rows of each problem, and the rest of `rollout.samples` where `low <= share of right pilots <= high`.

  Pilots and further rows are trained on as one group. Pilots of the other problems are not trained on, but their tokens count.
  A problem whose pilots were all right is not asked again. The share of right pilots is a biased estimate where it passed, so
  the group's mean is biased, too.

  An update trains on the problems that passed in its one round, so their number varies [I]. Pilot-Commit pilots further
  problems until there is a full batch, and keeps what is left over for up to four updates.

  Args:
    pilots: The rows of a problem in the first rollout, fewer than `rollout.samples`.
    low: The least share of right pilots of a problem that gets more rows.
    high: The highest share of right pilots of such a problem.
  """

  def init(pool: int) -> Memory:
    return {'solved': np.zeros(pool, bool)}

  def choose(memory: Memory, stream: Stream, position: int, count: int) -> tuple[np.ndarray, int]:
    return stream.take(position, count, lambda place, problem: bool(memory['solved'][problem]))

  def share_out(memory: Memory, problems: np.ndarray, samples: int) -> tuple[np.ndarray, np.ndarray]:
    del memory
    return np.full(len(problems), min(pilots, samples), np.int32), np.ones(len(problems))

  def commit(correct: Float[np.ndarray, 'P G']) -> Bool[np.ndarray, 'P']:
    mean = mean_correct(correct)
    return (low <= mean) & (mean <= high)

  def observe(memory: Memory, seen: Seen) -> Memory:
    solved = memory['solved'].copy()
    solved[seen.problems] |= mean_correct(seen.correct) >= 1.0
    return {'solved': solved}

  return Allocator(init, choose, share_out, observe, commit)

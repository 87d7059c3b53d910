"""Dynamic sampling (DAPO): a group whose scores are all equal teaches nothing, so another prompt's is drawn in its place."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from espo_jax import parallel
from espo_jax.types import Metrics, Reward, Trajectories


class Draw(NamedTuple):
  """A rollout and what came of it."""

  rows: Trajectories
  reward: Reward
  correct: Float[Array | np.ndarray, 'N']  # 1 where a row's whole text is right
  differ: Bool[Array, 'P']  # whether a group's scores differ
  metrics: Metrics


TOTALS = ('rollout/rows', 'rollout/tokens', 'rollout/shadow_tokens', 'rollout/row_steps', 'grading/timeouts', 'grading/errors')


def informative_batch(
  draw: Callable[[int], Draw], most: int, samples: int, mesh: jax.sharding.Mesh
) -> tuple[Trajectories, Reward, Draw, Metrics]:
  """Draw until every group says something, `most` times at most; what is then still missing is filled with groups that do not.

  Args:
    draw: The rollout of a number, each of other problems.
    most: Rollouts a step.
    samples: Rows a group.
    mesh: Where the rows are; which groups say something is known on all of its hosts.

  Returns:
    The rows to train on with their rewards; the first draw, an unselected sample of the policy; and metrics: totals over all
    draws, dropped groups included, and what the policy does as the first draw shows it.
  """
  first = draw(0)
  metrics = first.metrics
  if most == 1:
    return first.rows, first.reward, first, metrics
  sharding = parallel.over_batch(mesh)
  batch = parallel.lay((first.rows, first.reward), sharding)
  said, draws = np.array(parallel.fetch(first.differ, mesh)), 1
  while draws < most and not said.all():
    more = draw(draws)
    draws += 1
    good, missing = np.flatnonzero(parallel.fetch(more.differ, mesh)), np.flatnonzero(~said)
    count = min(len(good), len(missing))
    group = np.arange(len(said))
    group[missing[:count]] = len(said) + good[:count]
    said[missing[:count]] = True
    rows = (group[:, None] * samples + np.arange(samples)).reshape(-1).astype(np.int32)
    where = parallel.put(rows, parallel.replicated(mesh))
    batch = _chosen(sharding)(batch, (more.rows, more.reward), where)
    metrics = metrics | {name: metrics[name] + more.metrics[name] for name in TOTALS}
  extra = {'rollout/draws': np.float32(draws), 'rollout/informative_groups': np.float32(said.mean())}
  return *batch, first, metrics | extra


@functools.lru_cache
def _chosen(sharding: jax.sharding.NamedSharding) -> Callable:
  """The function `(old, new, rows) -> tree` of those rows of both trees, new ones counted after old ones, laid out as asked."""

  def choose(old: tuple, new: tuple, rows: Int[Array, 'N']) -> tuple:
    return jax.tree.map(lambda a, b: jnp.concatenate([a, b])[rows], old, new)

  return jax.jit(choose, out_shardings=sharding)

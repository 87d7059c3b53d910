"""A step's rollout in parts: the answers of one are graded on the host while the next is being decoded."""

import contextlib
import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from espo_jax import parallel, tasks
from espo_jax.experiment import Experiment, Grades
from espo_jax.model import Params
from espo_jax.stops import Adaptive, StopRule
from espo_jax.types import Trajectories

Timer = Callable[[str], contextlib.AbstractContextManager[None]]


def collect(
  exp: Experiment,
  params: Params,
  rule: StopRule,
  adaptive: Adaptive,
  problems: Sequence[Sequence[tasks.Problem]],
  key: Key[Array, ''],
  timed: Timer,
) -> tuple[Trajectories, Grades]:
  """`rollout.samples` graded responses to each problem, in the problems' order.

  All parts are dispatched at once, and the device goes from one to the next while the host grades. How many there are changes
  no sample. What comes back are all rows; each was graded by the process that has it.

  Args:
    exp: The experiment.
    params: The policy's and the critic's.
    rule: The stop rule.
    adaptive: The state that the rule carries from batch to batch.
    problems: This process's share of the problems, part by part.
    key: This rollout's random key.
    timed: `timed(phase)` is a context that adds to the seconds of 'rollout', waiting for the device, or of 'reward'.
  """
  with timed('rollout'):
    pending = [exp.sampler(params, rule, adaptive, exp.prompts(part), key) for part in problems]
  grades = []
  for part, rows in zip(problems, pending, strict=True):
    with timed('rollout'):
      jax.block_until_ready(rows)
    with timed('reward'):
      grades.append(exp.put_rows(exp.grade(part, rows)))
  graded = list(zip(pending, grades, strict=True))
  return graded[0] if len(graded) == 1 else _joined(parallel.over_batch(exp.mesh))(graded)


@functools.lru_cache
def _joined(sharding: jax.sharding.NamedSharding) -> Callable[[list[tuple]], tuple[Trajectories, Grades]]:
  return jax.jit(lambda parts: jax.tree.map(lambda *xs: jnp.concatenate(xs), *parts), out_shardings=sharding)

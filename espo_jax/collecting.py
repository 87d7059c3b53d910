"""A step's rollout in parts: the answers of one are graded on the host while the next is being decoded."""

import contextlib
import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
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
  problems: Sequence[tasks.Problem],
  key: Key[Array, ''],
  timed: Timer,
) -> tuple[Trajectories, Grades]:
  """`rollout.samples` graded responses to each problem, in the problems' order.

  All parts are dispatched at once, and the device goes from one to the next while the host grades. How many there are changes
  no sample.

  Args:
    exp: The experiment; `rollout.parts` says how many.
    params: The policy's and the critic's.
    rule: The stop rule.
    adaptive: Its batch-to-batch state.
    problems: To be answered.
    key: Of this rollout.
    timed: `timed(phase)` is a context that adds to the seconds of 'rollout', waiting for the device, or of 'reward'.
  """
  c = exp.config
  size = len(problems) // c.rollout.parts
  parts = [problems[start : start + size] for start in range(0, len(problems), size)]
  with timed('rollout'):
    pending = [exp.training_rollout(params, rule, adaptive, exp.prompts(part), key) for part in parts]
  grades = []
  for part, rows in zip(parts, pending, strict=True):
    with timed('rollout'):
      jax.block_until_ready(rows)
    with timed('reward'):
      grades.append(exp.grade(part, rows))
  if len(parts) == 1:
    return pending[0], grades[0]
  together = _joined(parallel.over_batch(exp.mesh))(pending)
  return together, Grades(*(np.concatenate(field) for field in zip(*grades, strict=True)))


@functools.lru_cache
def _joined(sharding: jax.sharding.NamedSharding) -> Callable[[list[Trajectories]], Trajectories]:
  return jax.jit(lambda parts: jax.tree.map(lambda *xs: jnp.concatenate(xs), *parts), out_shardings=sharding)

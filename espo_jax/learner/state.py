"""The train state: one pytree with all that a run needs to resume. Everything else is a pure function of (seed, step).

A step is a pure function of `(state, step)`, so that a checkpoint needs nothing but the state. Problems are numbered. Random
keys are `fold_in(root, stream, step)`. The order of minibatches comes from `(seed, step, epoch)`.
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from espo_jax.model import Params
from espo_jax.stops import Adaptive, GateState, StopRule, init_gate
from espo_jax.types import Drafts, Metrics


class History(flax.struct.PyTreeNode):
  """Statistics of the updates so far, of which objectives read some."""

  updates: Int[Array, '']
  entropy: Float[Array, 'K']  # mean over the updates of the batch's mean entropy in each turn, nats; nan before the first
  measured: Int[Array, 'K']  # updates in whose batch a row had that turn
  decoded: Int[Array, '2']  # tokens of all rows, shadow rows and dropped groups included: millions, and the rest


class TrainState(flax.struct.PyTreeNode):
  """The state of a stage."""

  params: Params
  opt_state: optax.OptState
  adaptive: Adaptive  # the stop rule's moments and beta
  gate: GateState  # the critic warm-up's progress
  history: History
  bad_steps: Int[Array, '']  # consecutive skipped optimizer steps
  skipped: Int[Array, '']  # skipped optimizer steps in all
  allocation: dict[str, Array] | None = None  # what is remembered of a pool of problems; None without one
  drafts: Drafts | None = None  # the last responses to a pool, NumPy arrays that no program reads; None without reuse


def init_state(params: Params, optimizer: optax.GradientTransformation, rule: StopRule, turns: int = 1) -> TrainState:
  """Returns the state of a stage before its first step, with the given parameters; `turns` is the most turns of a row."""
  history = History(
    updates=jnp.zeros((), jnp.int32),
    entropy=jnp.full(turns, jnp.nan, jnp.float32),
    measured=jnp.zeros(turns, jnp.int32),
    decoded=jnp.zeros(2, jnp.int32),
  )
  return TrainState(
    params=params,
    opt_state=optimizer.init(params),
    adaptive=rule.init(1).adaptive,
    gate=init_gate(),
    history=history,
    bad_steps=jnp.zeros((), jnp.int32),
    skipped=jnp.zeros((), jnp.int32),
  )


def jit_update(update: Callable[..., tuple[TrainState, Metrics]]) -> Any:
  """Applies `jax.jit` to a method `(self, state, *arrays) -> (state, metrics)`. The state is donated.

  The new state has the shardings of the old one. Without this constraint XLA chooses other shardings for some results, and
  every program that reads them is compiled a second time. Like the result of `jax.jit`, the method can be lowered for abstract
  arrays: `method.lower(self, state, *arrays)`.
  """

  @functools.lru_cache
  def program(self: Any, tree: jax.tree_util.PyTreeDef, layout: tuple[jax.sharding.Sharding, ...]) -> Any:
    return jax.jit(functools.partial(update, self), donate_argnums=0, out_shardings=(tree.unflatten(layout), None))

  def laid_out(self: Any, state: TrainState) -> Any:
    leaves, tree = jax.tree.flatten(state)
    return program(self, tree, tuple(x.sharding for x in leaves))

  @functools.wraps(update)
  def jitted(self: Any, state: TrainState, *arrays: Any) -> tuple[TrainState, Metrics]:
    return laid_out(self, state)(state, *arrays)

  jitted.lower = lambda self, state, *arrays: laid_out(self, state).lower(state, *arrays)  # type: ignore[attr-defined]
  return jitted

"""Everything a run needs to go on, in one pytree: what is not here is a pure function of (seed, step)."""

import functools
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int

from espo_jax.model import Params
from espo_jax.stops import Adaptive, GateState, StopRule, init_gate
from espo_jax.types import Metrics


class TrainState(flax.struct.PyTreeNode):
  """The state of a stage."""

  params: Params
  opt_state: optax.OptState
  adaptive: Adaptive  # the stop rule's moments and beta
  gate: GateState  # the critic warm-up's progress
  bad_steps: Int[Array, '']  # consecutive skipped optimizer steps
  skipped: Int[Array, '']  # skipped optimizer steps in all


def init_state(params: Params, optimizer: optax.GradientTransformation, rule: StopRule) -> TrainState:
  """A fresh state around given parameters."""
  return TrainState(
    params=params,
    opt_state=optimizer.init(params),
    adaptive=rule.init(1).adaptive,
    gate=init_gate(),
    bad_steps=jnp.zeros((), jnp.int32),
    skipped=jnp.zeros((), jnp.int32),
  )


def jit_update(update: Callable[..., tuple[TrainState, Metrics]]) -> Callable[..., tuple[TrainState, Metrics]]:
  """`jax.jit` for a method `(self, state, *arrays) -> (state, metrics)` that donates the state; the new one lies where it lay.

  Left to itself the compiler spreads some of the results differently, and whatever reads them is compiled a second time.
  """

  @functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=2)
  def run(self: Any, layout: tuple[jax.sharding.Sharding, ...], state: TrainState, *arrays: Any) -> tuple[TrainState, Metrics]:
    state, metrics = update(self, state, *arrays)
    leaves, tree = jax.tree.flatten(state)
    return tree.unflatten(map(jax.lax.with_sharding_constraint, leaves, layout)), metrics

  @functools.wraps(update)
  def jitted(self: Any, state: TrainState, *arrays: Any) -> tuple[TrainState, Metrics]:
    return run(self, tuple(x.sharding for x in jax.tree.leaves(state)), state, *arrays)

  return jitted

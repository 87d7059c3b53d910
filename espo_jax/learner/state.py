"""Everything a run needs to go on, in one pytree: what is not here is a pure function of (seed, step)."""

import flax.struct
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int

from espo_jax.model import Params
from espo_jax.stops import Adaptive, GateState, StopRule, init_gate


@flax.struct.dataclass
class TrainState:
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

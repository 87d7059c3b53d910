"""ESPO's critic warm-up: plain PPO until the critic can be trusted to judge a trajectory."""

import flax.struct
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from espo_jax.types import takes_numpy


class GateState(flax.struct.PyTreeNode):
  """Progress of the warm-up. Checkpointed."""

  open: Bool[Array, '']
  streak: Int[Array, '']  # consecutive updates with the critic's loss below the bound
  last_loss: Float[Array, '']  # of the update before, nan before the first
  updates: Int[Array, '']


def init_gate() -> GateState:
  """A closed gate."""
  return GateState(
    open=jnp.asarray(False),
    streak=jnp.zeros((), jnp.int32),
    last_loss=jnp.full((), jnp.nan, jnp.float32),  # not weakly typed, or the second update would compile again
    updates=jnp.zeros((), jnp.int32),
  )


@takes_numpy
def update_gate(
  state: GateState,
  critic_loss: Float[Array, ''],
  explained_variance: Float[Array, ''],
  *,
  force_after: int,
  loss_below: float = 0.5,
  patience: int = 3,
  change_below: float = 0.1,
  require_both: bool = False,
  min_explained_variance: float = -float('inf'),
) -> GateState:
  """Open once the critic has converged, or after `force_after` updates; an open gate stays open.

  Published: the loss below 0.5 for 3 consecutive updates, or its change between updates below 0.1; forced at 10 % of the run.
  With rewards in {0, 1} the squared error starts below 0.5, so that test alone says nothing; a floor on the explained variance
  says something. The floor is ours.

  Args:
    state: The gate so far.
    critic_loss: Mean squared error of this update's values against their returns.
    explained_variance: `1 - Var(return - V) / Var(return)` of this update.
    force_after: Updates after which the gate opens regardless.
    loss_below: Bound of the first test.
    patience: Consecutive updates the first test asks for.
    change_below: Bound of the second test.
    require_both: Whether both tests must hold; how they combine is unpublished [U].
    min_explained_variance: The floor; minus infinity leaves the published tests alone.
  """
  streak = jnp.where(critic_loss < loss_below, state.streak + 1, 0)
  low = streak >= patience
  steady = jnp.abs(critic_loss - state.last_loss) < change_below  # False against the initial nan
  converged = (low & steady if require_both else low | steady) & (explained_variance >= min_explained_variance)
  updates = state.updates + 1
  return GateState(
    open=state.open | converged | (updates >= force_after), streak=streak, last_loss=critic_loss, updates=updates
  )

"""The gate of ESPO's critic warm-up, which is plain PPO until the critic is accurate enough for the stop rule."""

import flax.struct
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from espo_jax.types import takes_numpy


class GateState(flax.struct.PyTreeNode):
  """The progress of the critic warm-up. It is part of checkpoints."""

  open: Bool[Array, '']
  streak: Int[Array, '']  # consecutive updates with the critic's loss below the bound
  last_loss: Float[Array, '']  # the loss of the previous update; nan before the first
  updates: Int[Array, '']


def init_gate() -> GateState:
  """Returns a closed gate."""
  return GateState(
    open=jnp.asarray(False),
    streak=jnp.zeros((), jnp.int32),
    last_loss=jnp.full((), jnp.nan, jnp.float32),  # a weakly typed scalar would compile the second update again
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
  """Opens the gate once the critic has converged, or after `force_after` updates. An open gate stays open.

  | test | published bound |
  |---|---|
  | critic loss | below 0.5 for 3 consecutive updates |
  | change of the critic loss between updates | below 0.1 |
  | forced opening | after 10 % of the run |

  With rewards in {0, 1} the squared error starts below 0.5, so the first test alone is uninformative. The floor on the
  explained variance is informative; it is ours.

  Args:
    state: The gate so far.
    critic_loss: The mean squared error of this update's values against their returns.
    explained_variance: `1 - Var(return - V) / Var(return)` of this update.
    force_after: The number of updates after which the gate opens regardless of the tests.
    loss_below: The bound of the first test.
    patience: The number of consecutive updates for which the first test must hold.
    change_below: The bound of the second test.
    require_both: Whether both tests must hold; how they combine is unpublished [U].
    min_explained_variance: The floor on the explained variance; minus infinity disables it.
  """
  streak = jnp.where(critic_loss < loss_below, state.streak + 1, 0)
  low = streak >= patience
  steady = jnp.abs(critic_loss - state.last_loss) < change_below  # False against the initial nan
  converged = (low & steady if require_both else low | steady) & (explained_variance >= min_explained_variance)
  updates = state.updates + 1
  return GateState(
    open=state.open | converged | (updates >= force_after), streak=streak, last_loss=critic_loss, updates=updates
  )

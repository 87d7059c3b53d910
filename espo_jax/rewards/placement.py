"""Places the reward of each row on its last token. A stopped row gets the failure reward instead."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from espo_jax.types import Reward, Trajectories, takes_numpy


@takes_numpy
def token_rewards(trajectories: Trajectories, reward: Reward, *, fail: float = -1.0) -> Float[Array, 'N T']:
  """Returns the reward of each token.

  Args:
    trajectories: The rows.
    reward: The rewards of the rows; `sequence` is not used on stopped rows.
    fail: `r_fail` (ESPO), the reward of the token that triggered a stop.
  """
  last = jnp.arange(trajectories.tokens.shape[1]) == trajectories.length[:, None] - 1
  outcome = jnp.where(trajectories.stopped, fail, reward.sequence)
  placed = jnp.where(last, outcome[:, None], 0.0)
  return placed if reward.dense is None else placed + jnp.where(trajectories.mask, reward.dense, 0.0)

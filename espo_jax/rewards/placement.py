"""Where a row's reward lands: on its last token; a stopped row's is the absorbing failure's."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from espo_jax.types import Reward, Trajectories, takes_numpy


@takes_numpy
def token_rewards(trajectories: Trajectories, reward: Reward, *, fail: float = -1.0) -> Float[Array, 'N T']:
  """Rewards token by token.

  Args:
    trajectories: The rows.
    reward: The rows' outcomes; what they say of a stopped row is not used.
    fail: `r_fail` (ESPO), on the token that triggered a stop.
  """
  last = jnp.arange(trajectories.tokens.shape[1]) == trajectories.length[:, None] - 1
  outcome = jnp.where(trajectories.stopped, fail, reward.sequence)
  placed = jnp.where(last, outcome[:, None], 0.0)
  return placed if reward.dense is None else placed + jnp.where(trajectories.mask, reward.dense, 0.0)

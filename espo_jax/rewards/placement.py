"""Places the reward of each row on its last token. A stopped row gets what a stop returns instead."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from espo_jax.types import Reward, Trajectories, takes_numpy

RETURNS = ('fail', 'zero', 'value', 'head', 'roulette', 'drop', 'graded')  # what a stopped row may return: see `stop_reward`


@takes_numpy
def next_counted(mask: Bool[Array, '... T']) -> Int[Array, '... T']:
  """Returns the column of the next token that counts behind each column; `T` if there is none.

  Between two turns of an episode stand tokens that do not count, so the next column need not be the next token.
  """
  width = mask.shape[-1]
  here = jnp.where(mask, jnp.arange(width), width)
  behind = jnp.pad(here[..., 1:], [(0, 0)] * (mask.ndim - 1) + [(0, 1)], constant_values=width)
  return jax.lax.cummin(behind, axis=mask.ndim - 1, reverse=True)


@takes_numpy
def stop_reward(
  returns: str, fail: float, values: Float[Array, 'N'], success: Float[Array, 'N'] | None = None
) -> float | Float[Array, 'N']:
  """Returns the reward of the token that triggered a stop.

  Args:
    returns: 'fail' is ESPO's absorbing failure, and 'zero' pays nothing. 'value' pays what the critic expects,
      and 'head' the probability that the row ends right by the head of `stops.with_head` (both ours). 'roulette' pays a cut row
      what the critic expects, and corrects for it by rows that went on: see `learner.roulette`. A row that 'drop' takes out
      of the batch pays nothing, and one that is 'graded' is not a stopped row.
    fail: `r_fail` of 'fail'.
    values: The value of each row's last state.
    success: The head's probability at each row's last token, which 'head' needs.
  """
  if returns == 'head':
    assert success is not None
    return success
  if returns in ('value', 'roulette'):
    return values
  return fail if returns == 'fail' else 0.0


@takes_numpy
def token_rewards(
  trajectories: Trajectories, reward: Reward, *, stopped: float | Float[Array, 'N'] = -1.0
) -> Float[Array, 'N T']:
  """Returns the reward of each token.

  Args:
    trajectories: The rows.
    reward: The rewards of the rows; `sequence` is not used on stopped rows.
    stopped: The reward of the token that triggered a stop; ESPO's is `r_fail`.
  """
  last = jnp.arange(trajectories.tokens.shape[1]) == trajectories.length[:, None] - 1
  outcome = jnp.where(trajectories.stopped, stopped, reward.sequence)
  placed = jnp.where(last, outcome[:, None], 0.0)
  return placed if reward.dense is None else placed + jnp.where(trajectories.mask, reward.dense, 0.0)

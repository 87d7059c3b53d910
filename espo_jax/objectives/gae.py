"""Generalised advantage estimation (Schulman et al. 2015) over rows of different lengths."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from espo_jax.types import takes_numpy


@takes_numpy
def gae(
  rewards: Float[Array, 'N T'],
  values: Float[Array, 'N T'],
  mask: Bool[Array, 'N T'],
  *,
  gamma: float,
  lam: float,
  bootstrap: Float[Array, 'N'] | None = None,
) -> tuple[Float[Array, 'N T'], Float[Array, 'N T']]:
  """Advantages and returns.

  They are `A_t = d_t + gamma lam A_{t+1}` with `d_t = r_t + gamma V_{t+1} - V_t`. The state after a row's last token is
  absorbing: its value and advantage are 0. So ESPO's stop has `d = r_fail - V(s_stop)`.

  Args:
    rewards: The reward of each token.
    values: The value of the state that each token was drawn from.
    mask: True on real tokens. Others, such as observations between two turns, are skipped as if they were not there.
    gamma: The discount.
    lam: GAE's lambda.
    bootstrap: The value after each row's last token where the horizon cut the row, 0 elsewhere; None for 0 everywhere.

  Returns:
    Advantages, and returns `A + V`. Both are 0 after the last real token.
  """
  after = jnp.zeros(rewards.shape[0]) if bootstrap is None else bootstrap

  def step(carry: tuple[Array, Array], xs: tuple[Array, Array, Array]) -> tuple[tuple[Array, Array], Array]:
    advantage, next_value = carry
    reward, value, real = xs
    advantage = jnp.where(real, reward + gamma * next_value - value + gamma * lam * advantage, advantage)
    return (advantage, jnp.where(real, value, next_value)), jnp.where(real, advantage, 0.0)

  carry = (jnp.zeros_like(after), after)
  _, advantages = jax.lax.scan(step, carry, (rewards.T, values.T, mask.T), reverse=True)
  return advantages.T, jnp.where(mask, advantages.T + values, 0.0)

"""A price on depth: tokens that leave the network early cost less."""

from jaxtyping import Array, Float

from espo_jax.registry import source
from espo_jax.rewards.registered import register


@register('exit_depth_cost')
@source('ours, for learned exits')
def exit_depth_cost(depth: Float[Array, 'P G'], *, cost: float = 0.1) -> Float[Array, 'P G']:
  """`-cost * depth`. To be added to a reward.

  Args:
    depth: The share of the network's layers that a response's tokens ran through, on average; 1 without exits.
    cost: The cost of the whole depth [U].
  """
  return -cost * depth

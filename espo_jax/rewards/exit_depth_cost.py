"""A cost of depth: tokens that exit early cost less."""

from jaxtyping import Array, Float

from espo_jax.registry import source
from espo_jax.rewards.registered import register


@register('exit_depth_cost')
@source('ours, for learned exits')
def exit_depth_cost(depth: Float[Array, 'P G'], *, cost: float = 0.1) -> Float[Array, 'P G']:
  """Computes `-cost * depth`, a term to add to a reward.

  Args:
    depth: The mean share of the model's blocks that a response's tokens ran through; 1 without exits.
    cost: The cost of full depth [U].
  """
  return -cost * depth

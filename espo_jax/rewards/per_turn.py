"""The rewards of an environment, each on the turn that earned it."""

from jaxtyping import Array, Float

from espo_jax.registry import source
from espo_jax.rewards.registered import register


@register('per_turn')
@source('ours')
def per_turn(paid: Float[Array, 'P G T']) -> Float[Array, 'P G T']:
  """Pays each turn what the environment paid for it, on the turn's last token. Without an environment it pays the verdict.

  The rewards of an episode add up to what `correct` pays once at its end, as long as the sum is in [0, 1]. A stopped row keeps
  the rewards of the turns before its stop, and returns besides what a stop returns.

  Args:
    paid: The environment's reward on the last token of each turn.
  """
  return paid

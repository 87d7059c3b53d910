"""S-GRPO's decay: the earlier of two right answers of a group earns more."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from espo_jax.registry import source
from espo_jax.rewards.registered import register


@register('serial_decay')
@source('S-GRPO, arXiv 2505.07686', 'base')
def serial_decay(correct: Float[Array, 'P G'], *, base: float = 2.0) -> Float[Array, 'P G']:
  """`base^-(n - 1)` for the `n`-th right answer in the order of the group, 0 for a wrong one.

  Args:
    correct: Verdicts, 0 or 1, in the order of exit, the full response last, as `rollout.serial` makes groups.
    base: How much less each further right answer earns; 1 for the same.
  """
  return correct * base ** (1.0 - jnp.cumsum(correct, axis=1))

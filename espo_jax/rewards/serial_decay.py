"""S-GRPO's decay: of two correct answers in a group, the earlier one earns more."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from espo_jax.registry import source
from espo_jax.rewards.registered import register


@register('serial_decay')
@source('S-GRPO, arXiv 2505.07686', 'base')
def serial_decay(correct: Float[Array, 'P G'], *, base: float = 2.0) -> Float[Array, 'P G']:
  """Gives `base^-(n - 1)` for the `n`-th correct answer in the order of the group, and 0 for a wrong one.

  Args:
    correct: Verdicts, 0 or 1, in the order of `rollout.serial`: early exits by their cuts, then the full response.
    base: The factor by which each further correct answer earns less; with 1 all earn the same.
  """
  return correct * base ** (1.0 - jnp.cumsum(correct, axis=1))

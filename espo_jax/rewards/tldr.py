"""TLDR: a length penalty whose weight depends on the level of brevity that the prompt asks for."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from espo_jax.registry import source
from espo_jax.rewards.lengths import scaled_lengths
from espo_jax.rewards.registered import register


@register('tldr')
@source('TLDR, arXiv 2505.07961; its formula is not public, so this one is ours')
def tldr(
  correct: Float[Array, 'P G'],
  lengths: Int[Array, 'P G'],
  levels: Int[Array, 'P'],
  *,
  weights: tuple[float, ...] = (0.6, 0.3, 0.05),
) -> Float[Array, 'P G']:
  """Computes `correct (1 - w sigmoid(z))`.

  `z` is the length, standardised over the prompt's correct answers. `w` is the weight of the prompt's level.

  Args:
    correct: Verdicts, 0 or 1.
    lengths: The number of tokens of each response.
    levels: The index in `rollout.tags` of each prompt's tag, 0 without tags.
    weights: The weight of each level, the shortest first [U].
  """
  weight = jnp.take(jnp.asarray(weights), levels, mode='clip')[:, None]
  return correct * (1.0 - weight * jax.nn.sigmoid(scaled_lengths(correct, lengths)))

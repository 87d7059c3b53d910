"""TLDR: a length penalty as strong as the level of brevity that the prompt asked for."""

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
  """`correct (1 - w sigmoid(z))`, with `z` the length standardised over the prompt's right answers, and `w` its level's weight.

  Args:
    correct: Verdicts, 0 or 1.
    lengths: Response tokens.
    levels: The number of the tag among `rollout.tags` that each prompt carries, 0 without tags.
    weights: The weight of each level, the shortest first [U].
  """
  weight = jnp.take(jnp.asarray(weights), levels, mode='clip')[:, None]
  return correct * (1.0 - weight * jax.nn.sigmoid(scaled_lengths(correct, lengths)))

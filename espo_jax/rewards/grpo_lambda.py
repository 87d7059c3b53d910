"""GRPO-lambda: a length penalty only on the prompts with the highest accuracy."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from espo_jax.registry import source
from espo_jax.rewards.lengths import scaled_lengths
from espo_jax.rewards.registered import register


@register('grpo_lambda')
@source('GRPO-lambda, arXiv 2505.18086', 'share')
def grpo_lambda(
  correct: Float[Array, 'P G'], lengths: Int[Array, 'P G'], *, share: float = 0.2, alpha: float = 0.6
) -> Float[Array, 'P G']:
  """Gives a correct answer `1 - alpha sigmoid(z)` on the prompts of highest group accuracy and 1 on others; a wrong one gets 0.

  `z` is the length, standardised over the group's correct answers. Prompts are ranked over the whole batch. Ties keep the
  prompts' order.

  Args:
    correct: Verdicts, 0 or 1.
    lengths: The number of tokens of each response.
    share: The share of the prompts whose answers are penalised; the number of prompts is rounded up.
    alpha: The weight of the penalty; the default is a public implementation's, not verified against the paper [U].
  """
  prompts = correct.shape[0]
  best_first = jnp.argsort(-correct.mean(axis=1), stable=True)
  rank = jnp.argsort(best_first)
  penalised = rank < math.ceil(share * prompts - 1e-6)  # in floating point 0.1 * 30 is a little more than 3
  cost = alpha * jax.nn.sigmoid(scaled_lengths(correct, lengths))
  return correct * (1.0 - jnp.where(penalised[:, None], cost, 0.0))

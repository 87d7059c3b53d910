"""Adaptive Deep Reasoning's margin loss: the first token of a response should open the mode that suits the prompt."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from espo_jax.objectives.registered import register
from espo_jax.objectives.terms import Terms, rows_mean
from espo_jax.registry import source
from espo_jax.types import Metrics


@register('mode_margin')
@source('Adaptive Deep Reasoning, arXiv 2505.20101; its formula is not public')
def mode_margin(
  opening_logprobs: Float[Array, 'N V'],
  prefers_short: Bool[Array, 'N'],
  mask: Bool[Array, 'N T'],
  *,
  long_token: int = 0,
  short_token: int = 1,
  margin: float = 2.0,
  margin_coef: float = 1.0,
) -> tuple[Terms, Metrics]:
  """A margin loss between the logits `z` of the two tokens that may open a response.

      loss = margin_coef mean_i max(margin - (z_i[preferred_i] - z_i[other_i]), 0)

  Args:
    opening_logprobs: Log-probabilities of all first response tokens under the current policy.
    prefers_short: Whether the short mode suits the row's prompt, by `rewards.short_serves`.
    mask: True on the tokens that count.
    long_token: The token that opens a response with reasoning, such as that of `<think>` [U].
    short_token: The token that opens a response without reasoning [U].
    margin: The margin between both logits, in nats [U].
    margin_coef: Weight of the term [U].
  """
  gap = opening_logprobs[:, short_token] - opening_logprobs[:, long_token]
  loss = jax.nn.relu(margin - jnp.where(prefers_short, gap, -gap))
  return {'mode_margin': (margin_coef, rows_mean(loss, mask))}, {'prefers_short': prefers_short.mean()}

"""Cross-entropy under StableMax, whose probabilities do not round to 0 and 1 as those of a softmax do."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from espo_jax.objectives.supervised import register_likelihood
from espo_jax.registry import source


@register_likelihood('stablemax_ce')
@source('grokking at the edge of numerical stability, arXiv 2501.04697')
def stablemax_ce(logits: Float[Array, '... V']) -> Float[Array, '... V']:
  """Returns the log-probabilities under StableMax, which grows linearly where a softmax grows exponentially.

      p = s(x) / sum s(x),   s(x) = x + 1 for x >= 0,   s(x) = 1 / (1 - x) for x < 0

  The release computes in float64. Here the logarithm of `s` is taken with log1p, in the dtype of the logits [I].

  Tokens are sampled from the softmax of the logits whatever the loss is. A policy that learned under StableMax therefore has
  large logits, and samples with less entropy than its loss suggests.

  Args:
    logits: The logits of all tokens.
  """
  positive, negative = jnp.where(logits >= 0, logits, 0.0), jnp.where(logits >= 0, 0.0, logits)
  return jax.nn.log_softmax(jnp.log1p(positive) - jnp.log1p(-negative))

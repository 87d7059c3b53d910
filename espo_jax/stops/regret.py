"""ESPO's surrogate regret: the log-probability gap between the likeliest and the sampled token. The engine calls it."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from espo_jax.types import takes_numpy


@takes_numpy
def surrogate_regret(logits: Float[Array, '... V'], tokens: Int[Array, '...']) -> Float[Array, '...']:
  """Computes `max_a log pi(a) - log pi(token)` for each token, in nats, without a gradient (ESPO).

  Args:
    logits: The logits over the vocabulary that each token was drawn from, after the temperature; `-inf` where truncation leaves
      no mass.
    tokens: The drawn tokens.

  Returns:
    The regrets. They are exactly 0 for the likeliest token, and finite for every token with mass.
  """
  chosen = jnp.take_along_axis(logits, tokens[..., None], axis=-1)[..., 0]
  return jax.lax.stop_gradient(logits.max(axis=-1) - chosen)

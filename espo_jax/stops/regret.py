"""ESPO's surrogate regret: how far below the likeliest token the sampled one stood. The engine asks here for each token."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from espo_jax.types import takes_numpy


@takes_numpy
def surrogate_regret(logits: Float[Array, '... V'], tokens: Int[Array, '...']) -> Float[Array, '...']:
  """How much less likely than the likeliest token each token was: `max_a log pi(a) - log pi(token)`, nats, >= 0 (ESPO).

  Args:
    logits: The logits that the token was drawn from, temperature included, over the whole vocabulary; `-inf` where truncation
      leaves no mass.
    tokens: The tokens drawn.

  Returns:
    Zero exactly where the token is the likeliest one, and finite wherever the token has mass.
  """
  chosen = jnp.take_along_axis(logits, tokens[..., None], axis=-1)[..., 0]
  return jax.lax.stop_gradient(logits.max(axis=-1) - chosen)

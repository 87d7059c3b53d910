"""Lengths standardised by a group's correct answers."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def scaled_lengths(correct: Float[Array, 'P G'], lengths: Int[Array, 'P G']) -> Float[Array, 'P G']:
  """Computes `(n - mean) / std` with mean and deviation of a group's correct answers; 0 if fewer than two are correct."""
  n = lengths.astype(jnp.float32)
  right = (correct > 0).astype(jnp.float32)
  count = right.sum(axis=1, keepdims=True)
  mean = (right * n).sum(axis=1, keepdims=True) / jnp.maximum(count, 1.0)
  deviation = jnp.sqrt((right * jnp.square(n - mean)).sum(axis=1, keepdims=True) / jnp.maximum(count, 1.0))
  return jnp.where(count >= 2, (n - mean) / jnp.maximum(deviation, 1e-6), 0.0)

"""Sums, means and variances over real tokens, in float32."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from espo_jax.types import takes_numpy


@takes_numpy
def masked_sum(x: Float[Array, '...'], mask: Bool[Array, '...']) -> Float[Array, '']:
  """Sum of `x` where `mask` is true. Masked values may be anything, nan included."""
  return jnp.where(mask, x, 0.0).sum()


@takes_numpy
def masked_mean(x: Float[Array, '...'], mask: Bool[Array, '...']) -> Float[Array, '']:
  """Mean of `x` where `mask` is true; 0 if the mask is empty."""
  return masked_sum(x, mask) / jnp.maximum(mask.sum(), 1)


@takes_numpy
def masked_variance(x: Float[Array, '...'], mask: Bool[Array, '...']) -> Float[Array, '']:
  """Population variance of `x` where `mask` is true."""
  return masked_mean(jnp.square(x - masked_mean(x, mask)), mask)


@takes_numpy
def whiten(x: Float[Array, '...'], mask: Bool[Array, '...'], epsilon: float = 1e-8) -> Float[Array, '...']:
  """`x` normalised to zero mean and unit variance over the mask, 0 outside it."""
  scaled = (x - masked_mean(x, mask)) / jnp.sqrt(masked_variance(x, mask) + epsilon)
  return jnp.where(mask, scaled, 0.0)


@takes_numpy
def explained_variance(values: Float[Array, '...'], returns: Float[Array, '...'], mask: Bool[Array, '...']) -> Float[Array, '']:
  """`1 - Var(returns - values) / Var(returns)`: 1 for a perfect critic, 0 for a constant one, 0 where all returns are equal."""
  variance = masked_variance(returns, mask)
  return jnp.where(variance > 1e-8, 1.0 - masked_variance(returns - values, mask) / jnp.maximum(variance, 1e-8), 0.0)

"""Gradients without the part that only scales the weights."""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from espo_jax.objectives.supervised import register_gradient
from espo_jax.registry import source

_PARALLEL = 1e-5  # what is left of a gradient that is parallel to its weights is rounding, which must not be scaled up


@register_gradient('orthograd')
@source('grokking at the edge of numerical stability, arXiv 2501.04697')
def orthograd() -> optax.GradientTransformation:
  """Takes from the gradient of each array its part along the array, and scales the rest to the norm of the whole gradient.

      g' = |g| v / |v|,   v = g - (w . g) / (w . w) w

  Without it, weights grow along themselves once every answer is right, which lowers the loss and learns nothing. A gradient
  that is parallel to its weights becomes 0, as that of an array with one entry always does [I].
  """

  def update(gradients: optax.Updates, state: optax.EmptyState, weights: optax.Params | None = None) -> tuple:
    return jax.tree_util.tree_map_with_path(_of_layers, gradients, weights), state

  return optax.GradientTransformation(lambda weights: optax.EmptyState(), update)


def _of_layers(path: tuple, gradient: Array, weight: Array) -> Array:
  """Treats each layer's array for itself. Scanned layers are one array with the layers in front."""
  scanned = any(getattr(key, 'key', None) == 'layers' for key in path)
  return jax.vmap(_orthogonal)(gradient, weight) if scanned else _orthogonal(gradient, weight)


def _orthogonal(gradient: Array, weight: Array) -> Array:
  wide = jnp.promote_types(gradient.dtype, jnp.float32)
  g, w = gradient.astype(wide), weight.astype(wide)
  square = jnp.vdot(w, w)
  rest = g - w * (jnp.vdot(w, g) / jnp.where(square > 0, square, 1.0))
  before, after = jnp.linalg.norm(g), jnp.linalg.norm(rest)
  some = after > _PARALLEL * before
  return (rest * jnp.where(some, before / jnp.where(some, after, 1.0), 0.0)).astype(gradient.dtype)

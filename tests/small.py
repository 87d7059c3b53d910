"""A decoder small enough to check by hand, with parameters that leave no part of it idle."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from rounding import precision

from espo_jax.model import ActorCritic, ModelConfig

VOCAB = 12


def config(**overrides) -> ModelConfig:
  shape = {'vocab_size': VOCAB, 'hidden_size': 16, 'intermediate_size': 20, 'num_layers': 2, 'num_heads': 4, 'num_kv_heads': 2}
  shape |= {'head_dim': 6, 'rope_theta': 50.0, 'rms_norm_eps': 1e-2, 'dtype': precision(), 'param_dtype': precision()}
  return ModelConfig(**(shape | overrides))


def randomised(shapes, seed: int = 0):
  """Random numpy values for a model's parameters: no norm is all ones, no value head zero, no branch weak, as at first."""
  rng = np.random.default_rng(seed)

  def draw(path, x):
    name = path[-1].key
    noise = rng.standard_normal(x.shape)
    if name == 'scale':
      value = 1 + 0.3 * noise
    elif name == 'success':
      value = np.full(x.shape, 0.3)
    elif name == 'bias':
      value = 0.3 * noise
    elif name == 'embedding':
      value = noise / np.sqrt(x.shape[-1])
    else:
      value = noise / np.sqrt(x.shape[-2])
    return value.astype(x.dtype)

  return jax.tree_util.tree_map_with_path(draw, shapes)


@functools.partial(jax.jit, static_argnums=0)
def forward(model: ActorCritic, params, tokens, positions=None, segments=None):
  """Logits and values, without a cache."""
  positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape) if positions is None else positions
  segments = jnp.ones(tokens.shape, jnp.int32) if segments is None else segments
  states = model.states(params, jnp.asarray(tokens), positions, segments)
  return model.logits(params, states), model.values(params, states)


def left_padded(width: int, lengths):
  """Positions and segments of rows of these lengths that end in the last of `width` columns."""
  offset = np.arange(width) - (width - np.asarray(lengths)[:, None])
  return jnp.asarray(np.maximum(offset, 0), jnp.int32), jnp.asarray(offset >= 0, jnp.int32)


def actor_critic(seed: int = 0, *, separate_critic: bool = False, **overrides) -> tuple[ActorCritic, dict]:
  """A model and its parameters."""
  model = ActorCritic(config(**overrides), separate_critic)
  return model, jax.device_put(randomised(_shapes(model), seed))


@functools.cache
def _shapes(model: ActorCritic):
  return jax.eval_shape(model.init, jax.random.key(0))

"""Drawing tokens. The key of a token depends on (seed, step, prompt, sample, position) alone, never on its row or batch."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, UInt32

_SHADOW = 0xFFFF_FFFF  # a position no token has: the draw that makes a row a shadow row
_GREEDY_BELOW = 1e-6  # temperatures under this take the likeliest token


def row_keys(key: Key[Array, ''], prompt_ids: UInt32[Array, 'P'], samples: int) -> Key[Array, 'N']:
  """A key a row, group-major, from the prompt's id and the sample's index."""
  prompt_keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(prompt_ids)
  per_sample = jax.vmap(lambda k: jax.vmap(lambda g: jax.random.fold_in(k, g))(jnp.arange(samples, dtype=jnp.uint32)))
  return per_sample(prompt_keys).reshape(-1)


def token_noise(keys: Key[Array, 'N'], start: Int[Array, ''], steps: int) -> Float[Array, 'K N 2']:
  """Two uniforms a token for positions `start .. start + steps`: one draws the token, one belongs to the stop rule."""
  positions = start + jnp.arange(steps)

  def draw(position: Array, key: Array) -> Array:
    return jax.random.uniform(jax.random.fold_in(key, position), (2,))

  return jax.vmap(jax.vmap(draw, in_axes=(None, 0)), in_axes=(0, None))(positions, keys)


def shadow_rows(keys: Key[Array, 'N'], share: Float[Array, '']) -> Array:
  """True for about a `share` of the rows."""
  return jax.vmap(lambda k: jax.random.uniform(jax.random.fold_in(k, _SHADOW)))(keys) < share


def tempered(logits: Float[Array, '... V'], temperature: Float[Array, '']) -> Float[Array, '... V']:
  """The logits of the distribution that samples. Greedy decoding records those of temperature 1."""
  return logits / jnp.where(temperature < _GREEDY_BELOW, 1.0, temperature)


def draw(
  logits: Float[Array, 'N V'], uniform: Float[Array, 'N'], temperature: Float[Array, '']
) -> tuple[Int[Array, 'N'], Float[Array, 'N']]:
  """Tokens by inverse CDF (one uniform a row, not one a vocabulary entry), and their log-probabilities.

  Args:
    logits: Tempered logits.
    uniform: In [0, 1).
    temperature: Near zero takes the likeliest token.
  """
  logprobs = jax.nn.log_softmax(logits)
  cdf = jnp.cumsum(jnp.exp(logprobs), axis=-1)
  sampled = jnp.argmax(cdf > uniform[:, None] * cdf[:, -1:], axis=-1)
  tokens = jnp.where(temperature < _GREEDY_BELOW, logits.argmax(axis=-1), sampled).astype(jnp.int32)
  return tokens, jnp.take_along_axis(logprobs, tokens[:, None], axis=-1)[:, 0]

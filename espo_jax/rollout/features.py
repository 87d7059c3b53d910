"""What is recorded about the state that a token is drawn from, for studies of which signals tell a failure early."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from espo_jax.types import Features, takes_numpy

_LIKELIEST, _LEAST = 20, -50.0  # tokens of a confidence, and the least log-probability of one


@functools.lru_cache(maxsize=1)
def directions(hidden_size: int, count: int) -> Float[np.ndarray, 'D K']:
  """Returns `count` orthonormal directions. They are random, and the same for every model of this size.

  With `count = hidden_size`, the projections onto them are the whole state.
  """
  drawn = np.random.default_rng(0).standard_normal((hidden_size, count))
  return np.linalg.qr(drawn)[0].astype(np.float32)


@takes_numpy
def features(logits: Float[Array, '... V'], states: Float[Array, '... D'], onto: Float[Array, 'D K']) -> Features:
  """Computes the features of the states that tokens are drawn from.

  Args:
    logits: The logits of the sampling distribution; `-inf` without mass.
    states: The policy's final states.
    onto: The orthonormal directions.
  """
  return Features(entropy(logits), margin(logits), confidence(logits), projected(states, onto))


@takes_numpy
def projected(states: Float[Array, '... D'], onto: Float[Array, 'D K']) -> Float[Array, '... K']:
  """Projects states onto directions, in float32 at least."""
  return _wide(states) @ onto


@takes_numpy
def entropy(logits: Float[Array, '... V']) -> Float[Array, '...']:
  """Computes the entropy of the distribution with these logits, in nats."""
  logprobs = jax.nn.log_softmax(_wide(logits))
  return -jnp.where(logprobs > -jnp.inf, jnp.exp(logprobs) * logprobs, 0).sum(axis=-1)


@takes_numpy
def margin(logits: Float[Array, '... V']) -> Float[Array, '...']:
  """Computes the log-probability of the likeliest token minus that of the second; inf if there is only one."""
  likeliest = jnp.arange(logits.shape[-1]) == logits.argmax(axis=-1)[..., None]
  return logits.max(axis=-1) - jnp.where(likeliest, -jnp.inf, logits).max(axis=-1)


@takes_numpy
def confidence(logits: Float[Array, '... V']) -> Float[Array, '...']:
  """Computes minus the mean log-probability of the 20 likeliest tokens, in nats: a token's confidence in DeepConf.

  Log-probabilities below -50, those of tokens without mass among them, count as -50.
  """
  logprobs = jax.nn.log_softmax(_wide(logits))
  likeliest, _ = jax.lax.top_k(logprobs, min(_LIKELIEST, logits.shape[-1]))
  return -jnp.maximum(likeliest, _LEAST).mean(axis=-1)


def _wide(x: Float[Array, '...']) -> Float[Array, '...']:
  return x.astype(jnp.promote_types(x.dtype, jnp.float32))

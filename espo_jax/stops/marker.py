"""Finds a sequence of token ids in what a row writes, token by token."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int


def newest_tokens(batch: int, marker: tuple[int, ...]) -> Int[Array, 'B M']:
  """Returns the last tokens of rows that have written nothing, as many as a marker has."""
  return jnp.full((batch, len(marker)), -1, jnp.int32)


def with_token(newest: Int[Array, 'B M'], tokens: Int[Array, 'B']) -> Int[Array, 'B M']:
  """Returns the last tokens of rows after one more."""
  last = jnp.arange(newest.shape[1], dtype=jnp.int32) == newest.shape[1] - 1
  return jnp.where(last[None], tokens[:, None], jnp.roll(newest, -1, axis=1))


def is_marker(newest: Int[Array, 'B M'], marker: tuple[int, ...]) -> Bool[Array, 'B']:
  """Returns whether the last tokens of each row are the marker.

  Raises:
    ValueError: The marker is empty. Every token would end with it.
  """
  if not marker:
    raise ValueError('marker = (): a rule waits for these token ids; fix: those of the text that it waits for')
  return (newest == jnp.asarray([marker], jnp.int32)).all(axis=1)

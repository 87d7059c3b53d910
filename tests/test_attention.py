"""Attention over whole sequences that are longer than what is computed together, against numpy in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from espo_jax.model.attention import self_attention

LENGTH, HEADS, KV_HEADS, WIDTH = 1100, 4, 2, 8


def reference(queries, keys, values, segments, window):
  """Query by query: softmax over the tokens of its segment up to itself, the last `window` of them."""
  out = np.zeros(queries.shape)
  for row in range(queries.shape[0]):
    for t in range(LENGTH):
      if segments[row, t] == 0:
        continue
      first = max(0, t + 1 - window) if window else 0
      seen = first + np.flatnonzero(segments[row, first : t + 1] == segments[row, t])
      for head in range(HEADS):
        side = head // (HEADS // KV_HEADS)
        scores = keys[side, row, seen] @ queries[row, t, head] / np.sqrt(WIDTH)
        weights = np.exp(scores - scores.max())
        out[row, t, head] = weights @ values[side, row, seen] / weights.sum()
  return out


def drawn():
  rng = np.random.default_rng(0)
  queries = rng.standard_normal((2, LENGTH, HEADS, WIDTH))
  keys, values = rng.standard_normal((2, KV_HEADS, 2, LENGTH, WIDTH))
  segments = np.ones((2, LENGTH), np.int32)
  segments[0, 700:], segments[1, :300], segments[1, 1050:] = 2, 3, 0  # a boundary within a part, one near a part's, padding
  return queries, keys, values, segments


@pytest.mark.parametrize('window', [0, 600])
def test_long_sequences(window):
  queries, keys, values, segments = drawn()
  out = self_attention(*(jnp.asarray(x, jnp.float32) for x in (queries, keys, values)), jnp.asarray(segments), window)
  real = segments > 0
  np.testing.assert_allclose(out[real], reference(queries, keys, values, segments, window)[real], atol=2e-5)


def test_their_gradient():
  """Along a random direction, against the difference of the reference."""
  queries, keys, values, segments = drawn()
  rng = np.random.default_rng(1)
  weights = rng.standard_normal(queries.shape) * (segments > 0)[..., None, None]
  direction = [rng.standard_normal(x.shape) for x in (queries, keys, values)]

  def total(*arrays):
    out = self_attention(*arrays, jnp.asarray(segments), 0)
    return (out * weights).sum()

  arrays = [jnp.asarray(x, jnp.float32) for x in (queries, keys, values)]
  slope = sum((g * d).sum() for g, d in zip(jax.grad(total, argnums=(0, 1, 2))(*arrays), direction, strict=True))
  step = 1e-5
  ends = [
    (
      reference(*(x + sign * step * d for x, d in zip((queries, keys, values), direction, strict=True)), segments, 0) * weights
    ).sum()
    for sign in (1, -1)
  ]
  np.testing.assert_allclose(slope, (ends[0] - ends[1]) / (2 * step), rtol=1e-4)

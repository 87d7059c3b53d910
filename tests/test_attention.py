"""Attention over whole sequences that are longer than what is computed together, against numpy in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rounding

from espo_jax.model.attention import self_attention

pytestmark = pytest.mark.quick

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


ROUNDINGS = WIDTH + 2 * LENGTH + 10  # of an output: a product of vectors, and sums over all tokens for its two sides


@functools.cache
def attended(window):
  """What whole sequences give, 0 at padding."""
  return np.where(drawn()[3][..., None, None] > 0, reference(*drawn(), window), 0.0)


@pytest.mark.parametrize('window', [0, 600])
def test_long_sequences(precision, window):
  *arrays, segments = drawn()

  @jax.jit
  def run(*arrays):
    out = self_attention(*arrays, jnp.asarray(segments), window, 'chunked')
    return jnp.where(segments[..., None, None] > 0, out, 0.0)

  rounding.assert_computes(run, tuple(jnp.asarray(x, precision) for x in arrays), attended(window), roundings=ROUNDINGS)


@functools.cache
def slope_by_differences():
  """Of the reference's weighed sum along a random direction, with both, and how far the step puts it off."""
  queries, keys, values, segments = drawn()
  rng = np.random.default_rng(1)
  weights = rng.standard_normal(queries.shape) * (segments > 0)[..., None, None]
  direction = [rng.standard_normal(x.shape) for x in (queries, keys, values)]

  step = 1e-5

  def at(moved):
    there = (x + moved * step * d for x, d in zip((queries, keys, values), direction, strict=True))
    return (reference(*there, segments, 0) * weights).sum()

  near, far = (at(1) - at(-1)) / (2 * step), (at(2) - at(-2)) / (4 * step)
  return near, abs(far - near), weights, direction  # the far one is off by four times as much


def test_their_gradient(precision):
  wanted, off, weights, direction = slope_by_differences()
  *arrays, segments = drawn()

  @jax.jit
  def slope(*arrays):
    total = lambda *arrays: (self_attention(*arrays, jnp.asarray(segments), 0, 'chunked') * weights).sum()
    return sum((g * d).sum() for g, d in zip(jax.grad(total, argnums=(0, 1, 2))(*arrays), direction, strict=True))

  arrays = tuple(jnp.asarray(x, precision) for x in arrays)
  roundings = 2 * ROUNDINGS + sum(x.size for x in arrays)  # there and back, and a sum over all elements
  bound = rounding.of_program(slope, *arrays, roundings=roundings) + off
  rounding.assert_within(slope(*arrays), wanted, bound)

"""DeepConf's online stop: a row ends once the mean confidence of its last tokens falls too low."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from espo_jax.registry import source
from espo_jax.stops.controller import Memory, Score, Threshold, at_beta, controlled
from espo_jax.stops.registered import register
from espo_jax.stops.rule import Observation, StopState

_NOT_YET = -100.0  # the score of a row that has not filled its window; no beta is below it


@register('deepconf')
@source('DeepConf, arXiv 2508.15260', 'window')
@controlled(beta_0=-10.0, beta_min=_NOT_YET, beta_max=0.0)
def deepconf(*, window: int = 2048) -> tuple[Score, Threshold, Memory]:
  """Stops a row once the mean confidence of its last `window` tokens is below `-beta`.

  A token's confidence is minus the mean log-probability of the 20 likeliest tokens, in nats: high where one token has all the
  probability. The score is minus the window's mean, and -100 before the window is full.

  DeepConf sets the threshold to a percentile of the lowest windows of 16 warm-up rows per problem. Here the controller moves it
  so that a target share of the rows stops.

  Args:
    window: The number of tokens; in rows shorter than that the rule never stops.
  """

  def first(batch: int) -> tuple[Float[Array, 'B W'], Int[Array, 'B']]:
    return jnp.zeros((batch, window)), jnp.zeros(batch, jnp.int32)  # the last confidences in a ring, the number of tokens

  def step(row: tuple[Array, Array], seen: Observation) -> tuple[Array, Array]:
    assert seen.confidence is not None  # the rule reads it
    ring, count = row
    here = jnp.arange(window, dtype=jnp.int32)[None] == (count % window)[:, None]
    return jnp.where(here, seen.confidence[:, None], ring), count + 1

  def score(state: StopState, seen: Observation) -> Array:
    del seen
    ring, count = state.row
    return jnp.where(count >= window, -ring.mean(axis=1), _NOT_YET)

  return score, at_beta, Memory(first, step, frozenset({'confidence'}))

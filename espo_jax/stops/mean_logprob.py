"""A stop rule of ours, which reads the log-probabilities of a row's own tokens and nothing else."""

import jax.numpy as jnp
from jaxtyping import Array

from espo_jax.registry import source
from espo_jax.stops.controller import Memory, Score, Threshold, at_beta, controlled
from espo_jax.stops.registered import register
from espo_jax.stops.rule import Observation, StopState


@register('mean_logprob')
@source('ours; confidences of this kind after DeepConf, arXiv 2508.15260')
@controlled(beta_0=0.5, beta_max=20.0)
def mean_logprob(*, least_tokens: int = 16) -> tuple[Score, Threshold, Memory]:
  """Stops a row once `-mean(log pi(a_1), ..., log pi(a_t)) > beta` and `t >= least_tokens`.

  The score is this mean in nats, and 0 before `least_tokens`, so beta must not be negative.

  Args:
    least_tokens: The number of tokens before which no row stops.
  """

  def first(batch: int) -> tuple[Array, Array]:
    return jnp.zeros(batch), jnp.zeros(batch)  # the sum of -log-probabilities, the number of tokens

  def step(row: tuple[Array, Array], obs: Observation) -> tuple[Array, Array]:
    assert obs.logprobs is not None  # the rule reads them
    total, count = row
    return total - obs.logprobs, count + 1.0

  def score(state: StopState, obs: Observation) -> Array:
    del obs
    total, count = state.row
    return jnp.where(count >= least_tokens, total / jnp.maximum(count, 1.0), 0.0)

  return score, at_beta, Memory(first, step, frozenset({'logprobs'}))

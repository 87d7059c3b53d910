"""First Try's stop: a row ends with a candidate answer, because what follows mostly confirms it."""

import jax.numpy as jnp
from jaxtyping import Array

from espo_jax.registry import source
from espo_jax.stops.controller import Memory, settling_rule
from espo_jax.stops.marker import is_marker, newest_tokens, with_token
from espo_jax.stops.registered import register
from espo_jax.stops.rule import Observation, StopRule, StopState


@register('candidate_answer')
@source('First Try Matters, arXiv 2510.08308, its stop alone')
def candidate_answer(*, marker: tuple[int, ...] = (), allowed: int = 1, momentum: float = 0.99) -> StopRule:
  """Stops a row once it has written `allowed` candidate answers; each ends with the tokens `marker`.

  The row is graded on what it has: set `stop.returns = 'graded'`. The paper tells candidates by a classifier of sentences, and
  the number that is allowed by a second classifier of the question. Here a candidate is a pattern of tokens and the number is a
  constant [I]. The paper also closes the thought and lets the model finish; here the candidate itself is the answer [I].

  Args:
    marker: The token ids with which a candidate answer ends.
    allowed: The number of candidates up to which a row goes on.
    momentum: The momentum of the running moments of the regret.
  """

  def first(batch: int) -> tuple[Array, Array]:
    return newest_tokens(batch, marker), jnp.zeros(batch)  # the last tokens, the number of candidates

  def step(row: tuple[Array, Array], seen: Observation) -> tuple[Array, Array]:
    assert seen.tokens is not None  # the rule reads them
    newest = with_token(row[0], seen.tokens)
    return newest, jnp.where(is_marker(newest, marker), row[1] + 1.0, row[1])

  def score(state: StopState, seen: Observation) -> Array:
    del seen
    return state.row[1]

  return settling_rule(score, allowed - 0.5, momentum, Memory(first, step, frozenset({'tokens'})))

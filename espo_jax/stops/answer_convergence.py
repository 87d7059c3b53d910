"""Answer convergence: a row ends once the answers that it would give have stopped changing."""

import jax.numpy as jnp
from jaxtyping import Array

from espo_jax.registry import source
from espo_jax.stops.controller import Memory, settling_rule
from espo_jax.stops.probing import Probing
from espo_jax.stops.registered import register
from espo_jax.stops.rule import Observation, StopRule, StopState


@register('answer_convergence')
@source('Answer convergence, arXiv 2506.02536')
def answer_convergence(
  *,
  inducer: tuple[int, ...] = (),
  marker: tuple[int, ...] = (),
  every: int = 64,
  answer_tokens: int = 20,
  most: int = 32,
  agree: int = 3,
  momentum: float = 0.99,
) -> StopRule:
  """Ends a row once `agree` forced answers in a row are the same tokens, which are then its answer.

  An answer without a token before its end token agrees with none. The paper compares answers after each chunk of the reasoning.
  Where the rule asks, that it compares token by token, and all defaults are our choice [I].

  Args:
    inducer: The token ids that ask for the answer.
    marker: The token ids before which the rule asks; () to ask every `every` tokens.
    every: The number of tokens between two places without a marker.
    answer_tokens: The most tokens of an answer.
    most: The most places of a row.
    agree: The number of equal answers in a row.
    momentum: The momentum of the running moments of the regret.
  """

  def first(batch: int) -> tuple[Array, Array]:
    return jnp.zeros((batch, answer_tokens), jnp.int32), jnp.zeros(batch)  # the last answer, the answers in a row that are it

  def step(row: tuple[Array, Array], seen: Observation) -> tuple[Array, Array]:
    assert seen.answer is not None  # the rule asks for it
    last, streak = row
    same = (seen.answer.tokens == last).all(axis=1) & (streak > 0)
    return seen.answer.tokens, jnp.where(seen.answer.content == 0, 0.0, jnp.where(same, streak + 1.0, 1.0))

  def score(state: StopState, seen: Observation) -> Array:
    del seen
    return state.row[1]

  probing = Probing(inducer, marker, every, answer_tokens, most)
  return settling_rule(score, agree - 0.5, momentum, Memory(first, step), probing)

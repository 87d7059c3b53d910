"""Decides after each token whether its row goes on: end tokens, the stop rule, the horizon.

The engine asks this of the tokens that it draws, and the verification of drafts asks it of the tokens that it keeps, so that a
row ends at the same token in both.
"""

import functools
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from espo_jax.rollout.features import confidence, directions, entropy, margin, projected
from espo_jax.rollout.progress import Row
from espo_jax.rollout.setup import Setup
from espo_jax.stops import Observation, StopState
from espo_jax.types import StopReason, by_a_rule


class Token(NamedTuple):
  """A token of each row, with what the stop rule may observe of it."""

  logits: Float[Array, 'S V']  # of the distribution that it was drawn from
  tokens: Int[Array, 'S']
  logprobs: Float[Array, 'S']
  values: Float[Array, 'S']
  regret: Float[Array, 'S']
  noise: Float[Array, 'S U']  # uniform draws, of which the second is for the rule
  states: Float[Array, 'S D']  # the policy's final states that the tokens were drawn from


class Judged(NamedTuple):
  """The progress of each row after its token."""

  stop: StopState
  z: Float[Array, 'S']
  counts: Bool[Array, 'S']  # False after a shadow row's stop
  ended: Bool[Array, 'S']
  stopped: Bool[Array, 'S']
  full_length: Int[Array, 'S']
  alive: Bool[Array, 'S']


def judge(setup: Setup, row: Row, stop: StopState, shadow: Bool[Array, 'S'], limit: Int[Array, 'S'], token: Token) -> Judged:
  """Applies the stop rule to the next token of each row, and finds the rows that end with it.

  If the stop rule fires on an end token, the row counts as ended, because its answer is complete and can be graded.

  Args:
    setup: The constants of the rollout.
    row: The rows before the token. The token of a row that is not alive is ignored.
    stop: The state of the stop rule before the token.
    shadow: Whether each row goes on decoding after a stop.
    limit: The most tokens of each row.
    token: The token.
  """
  on_demand: dict[str, Any] = {name: _on_demand(setup, token, name) for name in setup.rule.reads}
  observed = Observation(token.regret, token.values, token.noise[:, 1], **on_demand)
  stop, fires, z = setup.rule.update(stop, observed)

  counts = row.alive & ~by_a_rule(row.reason)
  ended = row.alive & functools.reduce(jnp.logical_or, [token.tokens == end for end in setup.end_tokens])
  stopped = counts & fires & ~ended
  full_length = row.full_length + row.alive
  goes_on = shadow & (setup.rule.reason != StopReason.SETTLED)  # a settled row is graded on what it has
  alive = row.alive & ~ended & ~(stopped & ~goes_on) & (full_length < limit)
  return Judged(stop, z, counts, ended, stopped, full_length, alive)


def advanced(setup: Setup, row: Row, judged: Judged) -> Row:
  """Returns the rows after the token that was judged."""
  return row.replace(
    length=row.length + judged.counts,
    full_length=judged.full_length,
    reason=jnp.where(judged.counts & judged.ended, StopReason.EOS, jnp.where(judged.stopped, setup.rule.reason, row.reason)),
    alive=judged.alive,
  )


def _on_demand(setup: Setup, token: Token, name: str) -> Array:
  """Computes an array of `Observation` that the rule reads on demand."""
  of_logits = {'entropy': entropy, 'margin': margin, 'confidence': confidence}
  if name in of_logits:
    return of_logits[name](token.logits)
  if name == 'projections':
    size, count = token.states.shape[-1], setup.rule.directions
    if count > size:
      raise ValueError(f'directions = {count}: the stop rule projects states of {size} numbers; fix: at most {size}')
    return projected(token.states, jnp.asarray(directions(size, count)))
  if name == 'answer':
    raise ValueError(f'{setup.rule.probing}: the stop rule asks for answers, for which rows do not wait; fix: generate_probed')
  return {'logprobs': token.logprobs, 'tokens': token.tokens}[name]

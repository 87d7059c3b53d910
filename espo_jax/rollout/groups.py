"""Ends the groups that a rule gives up as a whole, by what the first tokens of all their rows show."""

import jax.numpy as jnp
from jaxtyping import Array, Bool

from espo_jax.rollout.setup import Setup
from espo_jax.rollout.slots import Record, Slots


def end_groups(setup: Setup, record: Record, slots: Slots) -> tuple[Record, Slots]:
  """Ends the rows of the groups that the rule gives up.

  A group is judged at the end of the chunk in which each of its rows has the rule's number of tokens or has ended before. It is
  judged by the scores of these tokens alone, and a row that is longer by then counts as ended with the last of them. So neither
  the judgement nor the row's tokens depend on slots and chunks; only the tokens decoded in vain do, which `full_length` counts.

  Args:
    setup: The constants of the rollout. Its rule has a `group`.
    record: The rows as far as they are written out.
    slots: All slots.
  """
  rule = setup.rule.group
  assert rule is not None
  judged = jnp.minimum(record.full_length, rule.tokens)
  scores = jnp.take_along_axis(record.tokens.z, jnp.maximum(judged - 1, 0)[:, None], axis=1)
  row = slots.row
  decoding = jnp.zeros(setup.rows, bool).at[row.index].set(row.alive, mode='drop')  # a slot without a row has no such index
  ready = (record.full_length >= rule.tokens) | (record.full_length > 0) & ~decoding
  over = ready.reshape(-1, setup.samples).all(axis=1) & rule.ends(scores.reshape(-1, setup.samples))
  over = jnp.repeat(over & slots.stop.adaptive.enabled, setup.samples)
  its = over[jnp.minimum(row.index, setup.rows - 1)] & (row.index < setup.rows)

  def cut(where: Bool[Array, '*N'], length: Array, reason: Array) -> dict[str, Array]:
    ended = jnp.where(where, setup.rule.reason, reason)
    return {'length': jnp.where(where, jnp.minimum(length, rule.tokens), length), 'reason': ended}

  record = record.replace(**cut(over, record.length, record.reason))
  row = row.replace(alive=row.alive & ~(its & ~slots.shadow), **cut(its, row.length, row.reason))
  return record, slots.replace(row=row)

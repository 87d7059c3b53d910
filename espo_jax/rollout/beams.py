"""A beam search over steps, which drops beams by the score of each step's first tokens (`er_prm_beam` of the decoders).

Row `n` has slot `n`, as in `turns`. All beams of all prompts that have not ended are at the same token, so one bound on the
length of rows ends the prefix of a step, and another one the step. A place in the search keeps its random key, so that copies
of a beam go on with other draws. With `factor = 1` no row is ever copied, and the rows are those of `generate`.
"""

import functools

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from espo_jax.decoders import Beams
from espo_jax.model import Params, picked_rows
from espo_jax.rollout.engine import decode_on, recorded
from espo_jax.rollout.progress import TokenRecord
from espo_jax.rollout.sampling import Sampling
from espo_jax.rollout.setup import Setup, Start
from espo_jax.rollout.slots import Record, Slots, spread
from espo_jax.rollout.turns import Decoding, begin
from espo_jax.types import Prompts, StopReason, Trajectories


class _Search(flax.struct.PyTreeNode):
  """All beams between two parts of a step."""

  slots: Slots
  record: Record
  step: Int[Array, '']  # decode steps so far
  drawn: Int[Array, 'N']  # tokens drawn at each place
  begun: Int[Array, '']  # the index of the first token of this step of the search

  def open(self, horizon: int) -> Bool[Array, 'N']:
    """Whether each beam goes on."""
    return (self.record.reason == StopReason.LENGTH) & (self.record.full_length < horizon)


@functools.partial(jax.jit, static_argnames=('decoding', 'beams'))
def search(
  decoding: Decoding, params: Params, prompts: Prompts, key: Key[Array, ''], *, beams: Beams, sampling: Sampling
) -> tuple[Trajectories, Int[Array, 'N']]:
  """Searches with `decoding.samples` beams per prompt.

  Args:
    decoding: The model, a rule that stops no row, and the lengths.
    params: The parameters of policy and critic.
    prompts: `P` prompts.
    key: This step's random key.
    beams: The options of the search.
    sampling: How logits become the distribution that is sampled.

  Returns:
    The final beams, group-major, and the number of tokens that were drawn at the place of each, rejected ones included.
  """
  samples, horizon = decoding.samples, decoding.horizon
  first = jnp.full((), min(beams.prefix, horizon), jnp.int32)
  paused = begin(decoding, params, decoding.rule.init(1).adaptive, prompts, key, turn_horizon=first, sampling=sampling)
  slots = paused.slots
  start = Start(
    prompts, slots.states, slots.caches, slots.given, slots.limit, keys=slots.keys, shadow=slots.shadow, given=slots.given
  )
  setup = decoding.setup(params, start, sampling)

  def one_step(found: _Search) -> _Search:
    end, scored_at = found.begun + beams.step, found.begun + beams.step + beams.prefix
    scored = found.open(horizon)
    kept = survivors(partial_scores(found.record.tokens, found.record.full_length, beams.score), scored, samples, beams.factor)
    found = _decoded(setup, found, kept, end)
    found = _copied(setup, found, heirs(kept, scored & ~kept, found.open(horizon), samples))
    return _decoded(setup, found, found.open(horizon), scored_at).replace(begun=end)

  found = _Search(slots, paused.record, paused.step, paused.record.full_length, jnp.zeros((), jnp.int32))
  found = jax.lax.while_loop(lambda found: found.open(horizon).any(), one_step, found)
  return recorded(prompts, found.record, samples, slots.shadow, slots.given), found.drawn


def partial_scores(tokens: TokenRecord, length: Int[Array, 'N'], score: str) -> Float[Array, 'N']:
  """Returns the score of the first `length` tokens of each row; `decoders.scores` has the same scores of finished samples."""
  if score == 'value':
    return jnp.take_along_axis(tokens.values, jnp.maximum(length - 1, 0)[:, None], axis=1)[:, 0]
  numbers = {'regret': -tokens.regret, 'logprob': tokens.logprobs}[score]
  own = jnp.arange(numbers.shape[1]) < length[:, None]
  return jnp.where(own, numbers, 0).sum(axis=1) / jnp.maximum(length, 1)


def survivors(scores: Float[Array, 'N'], scored: Bool[Array, 'N'], samples: int, factor: int) -> Bool[Array, 'N']:
  """Returns the best `ceil(n / factor)` of the `n` rows of each prompt that are scored; of equal scores the earlier one.

  Args:
    scores: The score of each row.
    scored: Whether each row takes part.
    samples: The number of rows per prompt.
    factor: The number of rows of which one is kept.
  """
  asked = scored.reshape(-1, samples)
  order = jnp.argsort(jnp.where(asked, -scores.reshape(-1, samples), jnp.inf), axis=1, stable=True)
  rank = jnp.argsort(order, axis=1)
  count = -(-asked.sum(axis=1, keepdims=True) // factor)
  return (asked & (rank < count)).reshape(-1)


def heirs(kept: Bool[Array, 'N'], rejected: Bool[Array, 'N'], is_open: Bool[Array, 'N'], samples: int) -> Int[Array, 'N']:
  """Returns the row that goes on at each place: its own, or for a rejected one a kept row of the same prompt.

  The rejected places of a prompt take its kept rows in turn: those that have not ended, or all if every one has.

  Args:
    kept: Whether each row was kept.
    rejected: Whether each row was rejected. A prompt with such a row has a kept one.
    is_open: Whether each row has not ended.
    samples: The number of rows per prompt.
  """
  kept, rejected, is_open = (x.reshape(-1, samples) for x in (kept, rejected, is_open))
  going_on = kept & is_open
  parents = jnp.where(going_on.any(axis=1, keepdims=True), going_on, kept)
  order = jnp.argsort(~parents, axis=1, stable=True)
  turn = (jnp.cumsum(rejected, axis=1) - 1) % jnp.maximum(parents.sum(axis=1, keepdims=True), 1)
  places = jnp.arange(samples)
  within = jnp.where(rejected, jnp.take_along_axis(order, turn, axis=1), places)
  return (jnp.arange(kept.shape[0])[:, None] * samples + within).reshape(-1).astype(jnp.int32)


def _decoded(setup: Setup, found: _Search, rows: Bool[Array, 'N'], limit: Int[Array, '']) -> _Search:
  """Decodes `rows` until each has `limit` tokens or has ended."""
  slots, index = found.slots, jnp.arange(setup.rows, dtype=jnp.int32)
  limits = jnp.full_like(slots.limit, jnp.minimum(limit, setup.horizon))
  rows = rows & (found.record.full_length < limits)
  slots = slots.replace(row=slots.row.replace(index=index, alive=rows), limit=limits)
  loop = decode_on(setup, slots, found.record, found.step)
  new = loop.record.full_length - found.record.full_length
  return found.replace(slots=loop.slots, record=loop.record, step=loop.step, drawn=found.drawn + new)


def _copied(setup: Setup, found: _Search, source: Int[Array, 'N']) -> _Search:
  """Returns the search in which the row `source[n]` goes on at the place `n`, with the place's own key.

  The state of the rule is not copied, because the rule stops no row.
  """
  slots = found.slots
  states, caches = spread(setup, picked_rows(slots.states, slots.caches, source))
  row, record = jax.tree.map(lambda x: x[source], (slots.row, found.record))
  return found.replace(slots=slots.replace(row=row, states=states, caches=caches), record=record)

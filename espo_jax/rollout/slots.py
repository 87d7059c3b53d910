"""The slots of the engine: what a slot holds, how it takes a row, and how decoded tokens are written out."""

from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, Key, PyTree

from espo_jax.model import Caches, States, refill_rows, spread_rows
from espo_jax.rollout.progress import Correction, Row, TokenRecord
from espo_jax.rollout.sampling import no_candidates
from espo_jax.rollout.setup import Setup
from espo_jax.stops import Adaptive, StopState
from espo_jax.types import Features, StopReason

_REFILL_SHARE = 8  # at most an eighth of the slots is refilled at a time


class Slots(flax.struct.PyTreeNode):
  """The state of the slots between tokens. Token `t` of a row stands in column `t` of its slot's cache."""

  row: Row
  keys: Key[Array, 'S']
  shadow: Bool[Array, 'S']
  given: Int[Array, 'S']  # number of response tokens that are not drawn
  limit: Int[Array, 'S']
  states: States  # after the newest token; the next token is drawn from them
  caches: Caches
  stop: StopState
  correction: Correction | None = None  # of the row's draft; None without drafts
  processed: PyTree = None  # what the logit processor remembers of the row; None without one


class Pending(NamedTuple):
  """The decoded tokens that are not written out yet, with their places in the output."""

  tokens: TokenRecord  # [K, S]
  row: Int[Array, '...']  # the number of rows if the slot had none
  column: Int[Array, '...']


class Record(flax.struct.PyTreeNode):
  """The rows of the output, as far as they are written out."""

  tokens: TokenRecord  # [N, T]
  length: Int[Array, 'N']
  full_length: Int[Array, 'N']
  reason: Int[Array, 'N']
  started: Int[Array, 'N']


def refill(setup: Setup, slots: Slots, next_row: Int[Array, ''], step: Int[Array, '']) -> tuple[Slots, Int[Array, '']]:
  """Gives waiting rows, in order, to free slots.

  A refill copies the columns of the prompts, or with drafts all columns of the rows. At most an eighth of the slots takes a row
  at a time, so that the copy is small.

  Args:
    setup: The constants of the rollout.
    slots: All slots.
    next_row: The place in the queue of the first row that no slot has taken.
    step: The number of decode steps so far.

  Returns:
    The slots, and the first row that still waits.
  """
  start, old = setup.start, slots.row
  drafts = start.verified
  free = ~old.alive
  count = -(-setup.slots // _REFILL_SHARE)
  order = jnp.cumsum(free, dtype=jnp.int32) - 1  # a free slot's index among the free slots
  place = next_row + order
  taken = free & (order < count) & (place < setup.queued)
  index = jnp.where(taken, setup.row_at(place), jnp.where(free, setup.rows, old.index))
  row_of = jnp.minimum(index, setup.rows - 1)
  first = start.first[row_of]
  length, reason = (first, StopReason.LENGTH) if drafts is None else (drafts.row.length[row_of], drafts.row.reason[row_of])
  row = Row(
    index=index,
    length=jnp.where(taken, length, old.length),
    full_length=jnp.where(taken, first, old.full_length),
    reason=jnp.where(taken, reason, old.reason),
    started=jnp.where(taken, step, old.started),
    alive=old.alive | taken,
  )
  target = jnp.nonzero(taken, size=count, fill_value=setup.slots)[0]
  source = setup.row_at(jnp.minimum(next_row + jnp.arange(count), setup.rows - 1))
  begun = start.states, start.caches
  begun = refill_rows(slots.states, slots.caches, begun, setup.start_of(source), target, start.first[source])
  states, caches = spread(setup, begun)
  own = {name: getattr(start, name)[row_of] for name in ('keys', 'shadow', 'given', 'limit')}
  fresh = setup.rule.init(setup.slots, slots.stop.adaptive) if drafts is None else _rows(drafts.stop, row_of)
  own |= {'correction': None if drafts is None else _rows(drafts.correction, row_of)}
  stop = with_stop(taken, fresh, slots.stop)
  if setup.processor is not None:
    own['processed'] = chosen_rows(taken, setup.processor.init(setup.slots), slots.processed)
  return Slots(row=row, states=states, caches=caches, stop=stop, **own), next_row + taken.sum(dtype=jnp.int32)


def write_out(setup: Setup, record: Record, slots: Slots, pending: Pending, done: Int[Array, '']) -> Record:
  """Writes the first `done` decode steps of `pending` and the progress of each slot's row to the record."""
  index = jnp.where(jnp.arange(setup.steps)[:, None] < done, pending.row, setup.rows)  # later steps are an earlier chunk's
  row = slots.row
  return Record(
    tokens=jax.tree.map(lambda old, new: old.at[index, pending.column].set(new), record.tokens, pending.tokens),
    length=record.length.at[row.index].set(row.length),
    full_length=record.full_length.at[row.index].set(row.full_length),
    reason=record.reason.at[row.index].set(row.reason),
    started=record.started.at[row.index].set(row.started),
  )


def empty_slots(setup: Setup, adaptive: Adaptive) -> Slots:
  """Returns slots without rows.

  Args:
    setup: The constants of the rollout.
    adaptive: The state that the rule carries from batch to batch.
  """
  none = jnp.zeros(setup.slots, jnp.int32)
  nobody = Row(index=none + setup.rows, length=none, full_length=none, reason=none, started=none, alive=none > 0)
  states = jax.tree.map(lambda x: jnp.zeros((setup.slots, *x.shape[1:]), x.dtype), setup.start.states)
  states, caches = spread(setup, (states, setup.model.init_caches(setup.slots, setup.columns)))
  return Slots(
    row=nobody,
    keys=setup.start.keys[none],
    shadow=nobody.alive,
    given=none,
    limit=none,
    states=states,
    caches=caches,
    stop=setup.rule.init(setup.slots, adaptive),
    correction=None if setup.start.verified is None else Correction(none - 1, none - 1),
    processed=None if setup.processor is None else setup.processor.init(setup.slots),
  )


def first_record(setup: Setup) -> Record:
  """Returns the rows before the first decode step: pad tokens and zeros behind what drafts gave them."""
  if setup.start.verified is not None:
    row = setup.start.verified.row
    return Record(setup.start.verified.record, row.length, row.full_length, row.reason, row.started)
  tokens = blank(setup, setup.rows, setup.horizon if setup.drawn is None else setup.drawn)
  length, full_length, reason, started = (jnp.zeros(setup.rows, jnp.int32) for _ in range(4))
  return Record(tokens, length, full_length, reason, started)


def empty_pending(setup: Setup) -> Pending:
  """Returns a buffer for the tokens of one chunk."""
  shape = (setup.steps, setup.slots)
  return Pending(blank(setup, *shape), jnp.zeros(shape, jnp.int32), jnp.zeros(shape, jnp.int32))


def blank(setup: Setup, *shape: int) -> TokenRecord:
  """Returns what is recorded of tokens that do not exist: pad tokens and zeros."""
  depth = jax.tree.map(lambda x: jnp.zeros((*shape, *x.shape[1:]), x.dtype), setup.start.states.depth)
  logprobs, values, regret, z, entropy, margin, confidence = (jnp.zeros(shape) for _ in range(7))
  features = Features(entropy) if setup.entropies else None
  if setup.directions is not None:
    features = Features(entropy, margin, confidence, jnp.zeros((*shape, setup.directions.shape[1])))
  candidates = no_candidates(*shape, count=setup.candidates) if setup.candidates else None
  return TokenRecord(jnp.full(shape, setup.pad_token, jnp.int32), logprobs, values, regret, z, depth, features, candidates)


def _rows(tree: PyTree, rows: Int[Array, 'S']) -> PyTree:
  return jax.tree.map(lambda x: x[rows], tree)


def spread(setup: Setup, tree: tuple[States, Caches]) -> tuple[States, Caches]:
  """Splits the slots over the mesh's batch axes."""
  return tree if setup.mesh is None else spread_rows(tree, setup.mesh)


def chosen_rows(taken: Bool[Array, 'S'], new: PyTree, old: PyTree) -> PyTree:
  """Returns the tree that is new in the rows `taken` and old in the others."""

  def choose(new: Array, old: Array) -> Array:
    return jnp.where(taken.reshape(-1, *(1,) * (old.ndim - 1)), new, old)

  return jax.tree.map(choose, new, old)


def with_stop(taken: Bool[Array, 'S'], new: StopState, old: StopState) -> StopState:
  """Returns the state of the stop rule that is new in the rows `taken` and old in the others."""
  per_row = chosen_rows(taken, new.replace(adaptive=None), old.replace(adaptive=None))
  return per_row.replace(adaptive=old.adaptive)

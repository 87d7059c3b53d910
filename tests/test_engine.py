"""The engine piece by piece, on states made by hand and a model whose every token is known beforehand."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from known import EOS, FOLLOWS, PAD, Known
from small import config

from espo_jax.model import States
from espo_jax.rollout import Sampling, engine, slots
from espo_jax.rollout.setup import Setup, prefill, slot_count, start_rows
from espo_jax.rollout.slots import Pending, Row, Slots
from espo_jax.stops import Adaptive, StopRule, StopState
from espo_jax.types import Prompts, StopReason

pytestmark = pytest.mark.quick

WIDTH = 3
ADAPTIVE = Adaptive(jnp.zeros(()), jnp.ones(()), jnp.int32(1), jnp.float32(0.75), jnp.asarray(True))


def rule_of(score) -> StopRule:
  """Stops where `score` of an observation is over beta, and keeps the last score as its state."""

  def init(batch, adaptive):
    return StopState(adaptive, jnp.zeros(batch))

  def update(state, observation):
    z = score(observation)
    return state.replace(z=z), z > state.adaptive.beta, z

  return StopRule(init, update, lambda adaptive, values: values, lambda adaptive, *rest: adaptive)


RULE = rule_of(lambda observation: observation.values)  # after a token over 7


def setup_of(last=(2, 5), *, samples=1, separate=False, horizon=8, first=None, shadow=None, inducer=(), **changes) -> Setup:
  """Prompts of one to three tokens that end in the tokens `last`."""
  count = len(last)
  lengths = 1 + np.arange(count, dtype=np.int32) % WIDTH
  tokens = np.array([[PAD] * (WIDTH - n) + [7] * (n - 1) + [t] for n, t in zip(lengths, last, strict=True)], np.int32)
  prompts = Prompts(jnp.asarray(tokens), jnp.asarray(lengths), jnp.arange(count, dtype=jnp.uint32))
  model, rows = Known(config(), separate), count * samples
  start = start_rows(
    prompts,
    *prefill(model, {}, prompts),
    first=jnp.zeros(rows, jnp.int32) if first is None else jnp.asarray(first, jnp.int32),
    limit=jnp.full(rows, horizon, jnp.int32),
    keys=jax.random.split(jax.random.key(0), rows),
    shadow=jnp.zeros(rows, bool) if shadow is None else jnp.asarray(shadow),
    inducer=inducer,
  )
  fixed = {'end_tokens': (EOS,), 'pad_token': PAD, 'sampling': Sampling(), 'scan_length': 4, 'critic_every': 1}
  options = {'slots': slot_count(0, rows), 'horizon': horizon, 'inducer': inducer} | fixed | changes
  return Setup(model=model, params={}, rule=RULE, start=start, samples=samples, **options)


def held(setup: Setup, tokens, **row) -> Slots:
  """Slots whose newest tokens are these, all alive in rows of their own at the start; `row` changes that."""
  count, none = len(tokens), np.zeros(len(tokens), np.int32)
  usual = {'index': np.arange(count), 'length': none, 'full_length': none, 'reason': none, 'started': none}
  fields = {name: jnp.asarray(x, jnp.int32) for name, x in (usual | row).items() if name != 'alive'}
  alive = jnp.asarray(row.get('alive', np.ones(count, bool)))
  state = jnp.asarray(tokens, jnp.float32)[:, None]
  return slots.empty_slots(setup, ADAPTIVE).replace(
    row=Row(alive=alive, **fields),
    keys=jax.random.split(jax.random.key(1), count),
    states=States(state, state),
    limit=jnp.full(count, setup.horizon, jnp.int32),
  )


def compiled(piece, setup):
  return jax.jit(functools.partial(piece, setup))


# ------------------------------------------------------------------------------------------------------------ where rows start


def test_prompts_are_shifted_to_the_left_of_their_caches():
  prompts = setup_of((2, 5, 8, 3, 4)).start.prompts
  states, caches = jax.jit(prefill, static_argnums=0)(Known(config()), {}, prompts)
  np.testing.assert_array_equal(states.policy[:5, 0], [2, 5, 8, 3, 4])
  np.testing.assert_array_equal(caches.policy.lengths[:5], [1, 2, 3, 1, 2])
  wanted = [[2, 0, 0], [7, 5, 0], [7, 7, 8], [3, 0, 0], [7, 4, 0]]
  np.testing.assert_array_equal(caches.policy.keys[0][0, :5, :, 0], wanted)


def test_a_row_is_given_what_it_keeps_and_the_inducer():
  start = setup_of(first=[2, 0], inducer=(5, 6, 7)).start
  np.testing.assert_array_equal(start.given, [5, 3])


@pytest.mark.parametrize(('asked', 'rows', 'got'), [(0, 6, 6), (4, 6, 4), (9, 6, 6)])
def test_there_are_as_many_slots_as_asked_for_and_no_more_than_rows(asked, rows, got):
  assert slot_count(asked, rows) == got


@pytest.mark.parametrize(('separate', 'group', 'steps', 'columns'), [(False, 1, 4, WIDTH + 8), (True, 3, 6, WIDTH + 9)])
def test_steps_and_columns_are_whole_groups_of_what_the_critic_reads(separate, group, steps, columns):
  setup = setup_of(separate=separate, critic_every=3)
  assert (setup.group, setup.steps, setup.columns) == (group, steps, columns)


# --------------------------------------------------------------------------------------------------------------------- refill


def test_a_refill_gives_waiting_rows_to_the_first_free_slots():
  """Two of nine slots take a row at a time. With two samples per prompt, rows 11 and 12 are of the prompts 5 and 6."""
  first = np.zeros(16, int)
  first[12] = 2
  setup = setup_of((2, 5, 8, 3, 4, 2, 6, 7), samples=2, slots=9, first=first, shadow=np.arange(16) == 12)
  alive = np.array([1, 0, 1, 1, 0, 0, 1, 1, 1], bool)
  before = held(setup, [9] * 9, alive=alive, length=[4] * 9, full_length=[5] * 9, reason=[2] * 9, started=[1] * 9)
  before = before.replace(stop=before.stop.replace(z=jnp.ones(9)))
  after, waiting = compiled(slots.refill, setup)(before, jnp.int32(11), jnp.int32(30))
  assert waiting == 13
  taken = np.isin(np.arange(9), [1, 4])
  np.testing.assert_array_equal(after.row.index, [0, 11, 2, 3, 12, 16, 6, 7, 8])  # slot 5 has none
  np.testing.assert_array_equal(after.row.alive, alive | taken)
  for name, new, old in (
    ('length', first, 4),
    ('full_length', first, 5),
    ('reason', first * 0, 2),
    ('started', first * 0 + 30, 1),
  ):
    np.testing.assert_array_equal(getattr(after.row, name), [old, new[11], old, old, new[12], old, old, old, old], name)
  np.testing.assert_array_equal(after.states.policy[:, 0], np.where(taken, [0, 2, 0, 0, 6, 0, 0, 0, 0], 9))
  np.testing.assert_array_equal(after.caches.policy.lengths, [0, 3, 0, 0, 1 + 2, 0, 0, 0, 0])
  columns = np.zeros((9, setup.columns))
  columns[1, :WIDTH], columns[4, :WIDTH] = [7, 7, 2], [6, 0, 0]
  np.testing.assert_array_equal(after.caches.policy.keys[0][0, :, :, 0], columns)
  np.testing.assert_array_equal(after.stop.z, ~taken)  # the rule starts anew
  own = jax.random.key_data(setup.start.keys)
  np.testing.assert_array_equal(jax.random.key_data(after.keys)[taken], own[np.array([11, 12])])
  np.testing.assert_array_equal(after.shadow[taken], [False, True])
  np.testing.assert_array_equal(after.given[taken], [0, 2])
  np.testing.assert_array_equal(after.limit[taken], [8, 8])


def test_a_refill_without_waiting_rows_leaves_the_free_slots_without_one():
  setup = setup_of((2, 5, 8))
  before = held(setup, [9, 9, 9], alive=[True, False, True])
  after, waiting = compiled(slots.refill, setup)(before, jnp.int32(3), jnp.int32(5))
  assert waiting == 3
  np.testing.assert_array_equal(after.row.index, [0, 3, 2])
  np.testing.assert_array_equal(after.row.alive, [True, False, True])
  np.testing.assert_array_equal(after.states.policy[:, 0], [9, 9, 9])


# ------------------------------------------------------------------------------------------------------------------ write out


def test_what_is_written_out_are_the_steps_done_and_how_far_each_row_is():
  setup = setup_of((2, 5, 8), horizon=4)  # three rows, here on two slots
  setup = dataclasses.replace(setup, slots=2)
  record = slots.first_record(setup)
  before = held(setup, [9, 9], index=[2, 3], length=[3, 9], full_length=[4, 9], reason=[1, 2], started=[7, 9])
  pending = slots.empty_pending(setup)
  tokens = pending.tokens._replace(tokens=jnp.array([[5, 9], [6, 9], [7, 9], [8, 9]]), z=jnp.arange(8.0).reshape(4, 2))
  pending = Pending(tokens, jnp.array([[2, 0], [2, 3], [2, 3], [2, 3]]), jnp.array([[1, 3], [2, 0], [3, 0], [0, 0]]))
  after = compiled(slots.write_out, setup)(record, before, pending, jnp.int32(2))
  np.testing.assert_array_equal(after.tokens.tokens, [[0, 0, 0, 9], [0, 0, 0, 0], [0, 5, 6, 0]])
  np.testing.assert_array_equal(after.tokens.z, [[0, 0, 0, 1], [0, 0, 0, 0], [0, 0, 2, 0]])
  for name, value in (('length', 3), ('full_length', 4), ('reason', 1), ('started', 7)):
    np.testing.assert_array_equal(getattr(after, name), [0, 0, value], name)


# --------------------------------------------------------------------------------------------------------------- a token drawn

CASES = {  # newest token, shadow row, reason, tokens so far, alive; what becomes of reason, length, full length, alive
  'goes on': (2, False, 0, 0, True, (0, 1, 1, True)),
  'an end token': (4, False, 0, 2, True, (1, 3, 3, False)),
  'stopped': (8, False, 0, 2, True, (2, 3, 3, False)),
  'stopped, a shadow row': (8, True, 0, 2, True, (2, 3, 3, True)),
  'a shadow row behind its stop': (8, True, 2, 5, True, (2, 3, 6, True)),
  'a shadow row ends': (4, True, 2, 5, True, (2, 3, 6, False)),
  'the limit': (5, False, 0, 7, True, (0, 8, 8, False)),
  'no row': (8, False, 1, 2, False, (1, 2, 2, False)),
}


def test_each_way_for_a_row_to_go_on_or_end():
  newest, shadow, reason, so_far, alive, wanted = map(list, zip(*CASES.values(), strict=True))
  setup = setup_of([2] * len(CASES))
  length = [3 if name.startswith('a shadow row') else n for name, n in zip(CASES, so_far, strict=True)]
  before = held(setup, newest, length=length, full_length=so_far, reason=reason, alive=alive).replace(shadow=jnp.array(shadow))
  after, new = compiled(engine.decode_token, setup)(before)
  tokens = FOLLOWS[newest]
  np.testing.assert_array_equal(new.tokens.tokens, tokens)
  np.testing.assert_array_equal(new.row, [0, 1, 2, 3, 4, 5, 6, len(CASES)])  # a dead slot's token has no place
  np.testing.assert_array_equal(new.column, so_far)
  np.testing.assert_allclose(new.tokens.values, np.array(newest, np.float32) / 10)
  np.testing.assert_array_equal(new.tokens.z, new.tokens.values)
  np.testing.assert_array_equal(after.stop.z, new.tokens.values)
  np.testing.assert_array_equal(new.tokens.regret, 0)
  for name, now in zip(('reason', 'length', 'full_length', 'alive'), zip(*wanted, strict=True), strict=True):
    np.testing.assert_array_equal(getattr(after.row, name), now, name)
  np.testing.assert_array_equal(after.states.policy[:, 0], tokens)
  np.testing.assert_array_equal(after.caches.policy.lengths, before.caches.policy.lengths + 1)


def test_an_end_token_beats_a_stop_on_the_same_token():
  setup = dataclasses.replace(setup_of([2]), rule=rule_of(lambda seen: jnp.ones_like(seen.values)))
  after, _ = compiled(engine.decode_token, setup)(held(setup, [4]))
  assert (after.row.reason[0], after.row.alive[0]) == (StopReason.EOS, False)


def test_the_inducer_is_read_a_token_a_step_behind_what_a_row_keeps():
  setup = setup_of([2] * 5, first=[2] * 5, inducer=(6, 8, 3))
  before = held(setup, [2] * 5, full_length=[2, 3, 4, 5, 6]).replace(given=setup.start.given)
  _, new = compiled(engine.decode_token, setup)(before)
  np.testing.assert_array_equal(new.tokens.tokens, [6, 8, 3, FOLLOWS[2], FOLLOWS[2]])


def test_a_critic_reads_a_group_and_values_the_states_that_tokens_were_drawn_from():
  setup = setup_of([2, 5], separate=True, critic_every=3)
  before = held(setup, [2, 5])
  after, new = compiled(engine.decode_group, setup)(before)
  np.testing.assert_array_equal(new.tokens.tokens, [[3, 6], [4, 7], [EOS, 8]])
  np.testing.assert_allclose(new.tokens.z, np.array([[2, 5]] * 3) / np.float32(10))  # the rule saw one value
  np.testing.assert_allclose(new.tokens.values, np.array([[2, 5], [3, 6], [4, 7]], np.float32) / 10)
  np.testing.assert_array_equal(after.states.critic[:, 0], [EOS, 8])
  np.testing.assert_array_equal(after.caches.critic.keys[0][0, :, :3, 0], [[3, 4, EOS], [6, 7, 8]])


# ------------------------------------------------------------------------------------------------------------------- the loop


def test_a_chunk_ends_where_a_slot_is_free_and_a_row_waits():
  """Two slots, of which one is refilled at a time. The rows are `4 EOS`, `3 4 EOS`, `3 4 EOS`."""
  setup = setup_of((3, 2, 2), slots=2)
  zero = jnp.int32(0)
  loop = engine.Loop(slots.empty_slots(setup, ADAPTIVE), zero, zero, slots.first_record(setup), slots.empty_pending(setup))
  step, found = compiled(engine.chunk, setup), []
  more = compiled(engine.unfinished, setup)
  while more(loop):
    loop = step(loop)
    found.append((int(loop.step), int(loop.next_row), loop.record.tokens.tokens[:, :4].tolist(), loop.record.started.tolist()))
  row, last = [4, EOS, 0, 0], [3, 4, EOS, 0]
  assert found == [
    (0, 1, [[0] * 4] * 3, [0, 0, 0]),  # the second slot is free, and a row waits
    (2, 2, [row, [3, 4, 0, 0], [0] * 4], [0, 0, 0]),  # so is the first
    (5, 3, [row, last, last], [0, 0, 2]),  # no row waits, so it goes on until nobody is alive
  ]

"""The rollout over turns: against today's rollout, a pass over the whole conversation, and what must not matter."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rounding
from rollouts import (
  EOS,
  HORIZON,
  NEVER,
  PAD,
  PROMPTS,
  RULE,
  STATE,
  G,
  P,
  assert_same_rows,
  in_precision,
  limits_for,
  model_of,
  run,
)
from small import VOCAB

from espo_jax import learner, rewards
from espo_jax.rollout import Sampling, turns
from espo_jax.stops import Observation
from espo_jax.types import Reward, StopReason, Verdicts, by_a_rule

N, ROOM, MOST, SHORT = P * G, 3, 4, 5
EACH_IN_ONE = pytest.mark.parametrize(
  ('variant', 'precision'), [('shared', 'float32'), ('separate', 'float64')], indirect=['precision']
)
ENDED = np.arange(N) % 2 == 0  # the environments of these rows have ended the episode
LONG = {'most': 16, 'turn_horizon': 20, 'horizon': 200}  # more columns than the three smallest widths of attention
MORE = jax.tree.map(lambda x: np.roll(x, 1, axis=0), PROMPTS)


def observation(prompt_id, sample, number):
  """What an environment says, which depends on the row and the turn alone."""
  rng = np.random.default_rng([prompt_id, sample, number])
  return rng.integers(2, VOCAB, rng.integers(1, ROOM + 1)).astype(np.int32)


def play(variant='shared', prompts=PROMPTS, most=MOST, turn_horizon=SHORT, horizon=HORIZON):
  """The rows of episodes that go on until the turns or the columns are used up; in one variant the rule begins anew."""
  model, params = model_of(variant)
  prompts, most = jax.tree.map(jnp.asarray, prompts), np.broadcast_to(most, N)
  decoding = turns.Decoding(model=model, rule=RULE, samples=G, horizon=horizon, end_tokens=(EOS,), pad_token=PAD, scan_length=8)
  shared = {'sampling': Sampling(jnp.float32(1.0)), 'turn_horizon': jnp.int32(turn_horizon)}
  start = in_precision(STATE), prompts, jax.random.key(7)
  paused, playing = turns.begin(decoding, params, *start, shadow_share=jnp.float32(0.5), **shared), np.ones(N, bool)
  for number in range(1, most.max()):
    reason, length, shadows = jax.device_get((paused.record.reason, paused.record.full_length, paused.slots.shadow))
    tokens, counts = np.full((N, ROOM), PAD, np.int32), np.ones(N, np.int32)
    for n in range(N):
      words = observation(int(prompts.ids[n // G]), n % G, number)
      tokens[n, : len(words)], counts[n] = words, len(words)
    playing &= (number < most) & (~by_a_rule(reason) | shadows) & (length + counts < horizon)
    observed = turns.Observations(*map(jnp.asarray, (tokens, counts, playing)))
    ahead = prompts, observed, jnp.int32(number)
    paused = turns.go_on(decoding, params, paused, *ahead, reset_rule=variant == 'separate', **shared)
  return jax.device_get(turns.finished(paused, prompts, jnp.asarray(ENDED), samples=G))


@rounding.cached
def usual(variant='shared'):
  return play(variant)


@rounding.cached
def long():
  return play(**LONG)


def test_rows_of_a_play_differ_in_their_turns_and_ends():
  """What the tests below rest on."""
  rows = usual()
  assert {0, MOST - 1} < set(rows.turn.max(axis=1))
  assert np.isin(rows.full_length, HORIZON).any() and not np.isin(rows.full_length, HORIZON).all()
  assert {int(reason) for reason in rows.stop_reason} == {StopReason.EOS, StopReason.LENGTH, StopReason.STOPPED}
  assert rows.shadow.any() and (rows.turn[rows.shadow].max(axis=1) > 0).any()


def test_one_turn_is_the_rollout_without_turns_bit_for_bit():
  rows, plain = play(most=1, turn_horizon=HORIZON), run()
  written = np.arange(HORIZON) < plain.full_length[:, None]
  np.testing.assert_array_equal(rows.turn, np.where(written, 0, -1))
  own = np.where(ENDED | by_a_rule(plain.stop_reason), plain.stop_reason, StopReason.LENGTH)
  jax.tree.map(np.testing.assert_array_equal, rows.replace(turn=None), plain.replace(stop_reason=own))
  assert (plain.stop_reason[ENDED] == StopReason.EOS).any() and (plain.stop_reason[ENDED] == StopReason.LENGTH).any()
  np.testing.assert_array_equal(rows.mask, plain.mask)


@pytest.mark.parametrize('variant', ['shared', 'separate'])
@pytest.mark.parametrize('waits', [0, 1])  # the number of turns of others before each of its own
def test_a_row_that_goes_on_without_an_observation_is_as_if_it_were_not_cut(variant, waits):
  model, params = model_of(variant)
  prompts = jax.tree.map(jnp.asarray, PROMPTS)
  decoding = turns.Decoding(
    model=model, rule=NEVER, samples=G, horizon=HORIZON, end_tokens=(EOS,), pad_token=PAD, scan_length=8
  )
  shared = {'sampling': Sampling(jnp.float32(1.0)), 'turn_horizon': jnp.int32(SHORT)}
  paused = turns.begin(decoding, params, in_precision(STATE), prompts, jax.random.key(7), **shared)
  for number in range(1, (1 + waits) * -(-HORIZON // SHORT)):
    goes_on = (paused.record.reason == StopReason.LENGTH) & (paused.record.full_length < HORIZON)
    goes_on &= (number + np.arange(N)) % (1 + waits) == 0
    observed = turns.Observations(jnp.full((N, ROOM), 3, jnp.int32), jnp.zeros(N, jnp.int32), goes_on)
    paused = turns.go_on(decoding, params, paused, prompts, observed, jnp.int32(number), **shared)
  rows = jax.device_get(turns.finished(paused, prompts, jnp.ones(N, bool), samples=G))
  plain = run(variant=variant, rule=NEVER, shadow=0.0)
  assert_same_rows(rows, plain, limits=limits_for(model, params, plain))
  assert (rows.turn.max(axis=1) > 1 + waits).any()


def test_a_turn_holds_the_policys_tokens_and_the_observation_stands_before_it():
  rows = usual()
  for n in range(N):
    turn, tokens, end = rows.turn[n], rows.tokens[n], rows.full_length[n]
    assert (turn[end:] == -1).all() and (tokens[end:] == PAD).all() and turn[0] == 0 and turn[end - 1] == turn.max()
    for number in range(turn.max() + 1):
      (its,) = np.nonzero(turn == number)
      assert (np.diff(its) == 1).all() and len(its) <= SHORT and EOS not in tokens[its[:-1]]
      if number:
        words = observation(int(PROMPTS.ids[n // G]), n % G, number)
        begin = its[0] - len(words)
        np.testing.assert_array_equal(tokens[begin : its[0]], words)
        assert (turn[begin : its[0]] == -1).all() and turn[begin - 1] == number - 1
        assert tokens[begin - 1] == EOS or (turn == number - 1).sum() == SHORT
    np.testing.assert_array_equal(rows.mask[n], (turn >= 0) & (np.arange(HORIZON) < rows.length[n]))
    for name in ('logprobs', 'values', 'regret', 'z'):
      assert not np.any(getattr(rows, name)[n][turn < 0]), name
  np.testing.assert_array_equal(rows.sizes, rows.mask.sum(axis=1))


@EACH_IN_ONE
def test_turns_give_what_one_pass_over_the_whole_conversation_gives(variant, precision):
  rows = usual(variant)
  assert (rows.turn > 1).any()
  assert_scored(variant, rows)


def assert_scored(variant, rows):
  model, params = model_of(variant)
  scored = jax.jit(functools.partial(learner.score, model, temperature=1.0, chunk=10_000))(
    params, *map(jnp.asarray, (rows.prompt_tokens, rows.prompt_lengths, rows.tokens))
  )
  written, limits = rows.turn >= 0, limits_for(model, params, rows)
  for name in ('logprobs', 'values'):
    got, wanted = getattr(rows, name)[written], getattr(scored, name)[written]
    np.testing.assert_allclose(got, wanted, rtol=0, atol=limits[name])
    assert np.abs(got - wanted).max() <= 1e-5


def test_a_row_does_not_depend_on_the_turns_of_the_others():
  rows = usual()
  alone = np.arange(N) // G == 3
  silent = play(most=np.where(alone, MOST, 1))
  assert (silent.turn[~alone] <= 0).all() and (silent.turn[alone] == MOST - 1).any()
  assert_same_rows(rows, silent, alone, alone, limits=dict.fromkeys(('logprobs', 'values', 'regret', 'z'), 1e-5))
  moved = play(prompts=MORE)
  which = np.roll(np.arange(N), G)
  np.testing.assert_array_equal(moved.tokens, rows.tokens[which])
  np.testing.assert_array_equal(moved.turn, rows.turn[which])


def test_long_turns_give_what_one_pass_over_the_whole_conversation_gives():
  rows = long()
  assert (rows.full_length == LONG['horizon']).any() and (rows.turn.max(axis=1) > 4).any()
  assert_scored('shared', rows)


def test_a_long_row_does_not_depend_on_the_turns_of_the_others():
  rows = long()
  alone = np.arange(N) // G == 3
  silent = play(**LONG | {'most': np.where(alone, LONG['most'], 1)})
  assert (silent.full_length[alone] > 128).any()
  assert_same_rows(rows, silent, alone, alone, limits=dict.fromkeys(('logprobs', 'values', 'regret', 'z'), 1e-5))


@EACH_IN_ONE
def test_the_stop_rule_reads_the_policys_tokens_alone_and_begins_anew_by_option(variant, precision):
  rows = usual(variant)
  update = jax.jit(RULE.update)
  for n in np.flatnonzero(rows.turn.max(axis=1) > 0)[:6]:
    stop = RULE.init(1, in_precision(STATE))
    for t in np.flatnonzero(rows.turn[n] >= 0):
      if variant == 'separate' and t and rows.turn[n, t - 1] < 0:
        stop = RULE.init(1, in_precision(STATE))
      regret, value = (jnp.asarray(x[n, t : t + 1]) for x in (rows.regret, rows.values))
      stop, _, z = update(stop, Observation(regret, value, jnp.zeros_like(regret)))
      np.testing.assert_allclose(rows.z[n, t], z[0], rtol=rounding.gamma(100, rows.z.dtype), atol=1e-6)


def test_an_episode_is_cut_unless_its_environment_ended_it():
  rows = usual()
  own, full = ~by_a_rule(rows.stop_reason), rows.full_length == HORIZON
  np.testing.assert_array_equal(rows.stop_reason[own & ~full] == StopReason.EOS, ENDED[own & ~full])
  assert rows.truncated[own & full & ~ENDED].all()
  ended_at_once = rows.tokens[:, -1] == EOS
  np.testing.assert_array_equal(rows.truncated[own & full & ENDED], ~ended_at_once[own & full & ENDED])


def test_without_an_environment_a_turn_is_paid_by_the_verdict():
  rows = jax.tree.map(jnp.asarray, run())
  correct, no = np.random.default_rng(0).random(N).astype(np.float32), np.zeros(N, bool)
  verdicts = Verdicts(correct, no, no, np.zeros(N, np.int32), no, no)
  seen = rewards.observed(rows, verdicts, G, 2)
  paid = rewards.REGISTRY['per_turn'](seen['paid']).reshape(N, HORIZON)
  placed = rewards.token_rewards(rows, Reward(jnp.asarray(correct)), stopped=0.0)
  assert rows.stopped.any() and not rows.stopped.all()
  np.testing.assert_array_equal(paid, placed)
  np.testing.assert_array_equal(seen['turn'].reshape(N, HORIZON), np.where(rows.mask, 0, -1))


def test_the_decode_steps_are_those_of_the_longest_turns():
  rows = usual()
  sizes = np.array([[(rows.turn[n] == number).sum() for number in range(MOST)] for n in range(N)])
  ends = rows.started + rows.full_length
  assert ends.max() == sizes.max(axis=0).sum()
  for n in range(N):
    number = rows.turn[n].max()
    assert ends[n] == sizes[:, :number].max(axis=0).sum() + sizes[n, number]

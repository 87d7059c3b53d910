"""The signals of a state's path: the notes' values, identities, the engine, a replay, and the decoder that selects by them."""

import jax.numpy as jnp
import numpy as np
import pytest
from rollouts import EOS, NEVER, STATE, model_of, run
from tiny import tiny_experiment

from espo_jax import decoders, replay, stops
from espo_jax.configs import ConfigError, validate
from espo_jax.decoders.lt_select import signals
from espo_jax.rollout import endings
from espo_jax.rollout.features import directions
from espo_jax.stops import Observation, latent_trajectory
from espo_jax.types import StopReason

CORNER = np.array([(0, 0), (1, 0), (1, 1), (2, 1)], np.float32)
WEIGHTS = {'net': 0.7, 'cumulative': 0.2, 'aligned': 1.3}


def along(states, segment, **weights):
  """The rule's score after each state of one row."""
  rule = latent_trajectory(segment=segment, directions=states.shape[1], **weights)
  held, scores = rule.init(1, stops.adaptive(rule)), []
  for state in states:
    seen = Observation(*[jnp.zeros(1)] * 3, projections=jnp.asarray(state)[None])
    held, _, score = rule.update(held, seen)
    scores.append(float(score[0]))
  return np.array(scores)


@pytest.mark.parametrize('beta', [-100.5, -1e30])
def test_a_row_without_two_segments_is_not_ended_by_any_threshold(beta):
  rule = latent_trajectory(segment=2, directions=2, beta_min=beta, beta_0=beta)
  held = rule.init(1, stops.adaptive(rule))
  ended = []
  for state in CORNER[:4]:
    held, stop, _ = rule.update(held, Observation(*[jnp.zeros(1)] * 3, projections=jnp.asarray(state)[None]))
    ended.append(bool(stop[0]))
  assert ended == [False, False, False, True]


@pytest.mark.parametrize('segment', [1, 3])
def test_the_signals_of_a_path_are_those_of_the_notes(segment):
  its = signals(np.repeat(CORNER, segment, axis=0), segment)
  np.testing.assert_allclose(its, [0.559017, 3.0, 0.745356], atol=1e-6)


@pytest.mark.parametrize(('signal', 'wanted'), [('net', -0.559017), ('cumulative', 3.0), ('aligned', -0.745356)])
def test_the_rule_computes_the_signals_of_the_notes(signal, wanted):
  weights = dict.fromkeys(WEIGHTS, 0.0) | {signal: 1.0}
  scores = along(CORNER, 1, **weights)
  assert scores[0] == np.finfo(np.float32).min
  np.testing.assert_allclose(scores[-1], wanted, atol=1e-6)


def test_a_straight_path_is_aligned_and_no_path_is_shorter_than_its_whole_move():
  rng = np.random.default_rng(0)
  straight = signals(np.arange(1, 6)[:, None] * rng.normal(size=3), 1)
  assert straight.aligned == pytest.approx(1) and straight.cumulative == pytest.approx(5 * straight.net)
  for states in rng.normal(size=(20, 12, 4)):
    its = signals(states, 2)
    assert its.cumulative >= 6 * its.net and -1 <= its.aligned <= 1
  assert signals(np.ones((4, 2)), 2) == (0, 0, 0) and signals(np.ones((3, 2)), 2) is None


def test_a_token_at_a_time_gives_what_whole_segments_give(in_float64):
  states = np.random.default_rng(1).normal(size=(23, 5))
  scores = along(states, 4, **WEIGHTS)
  for count in range(1, 24):
    its = signals(states[:count], 4)
    wanted = np.finfo(float).min if its is None else 0.2 * its.cumulative - 0.7 * its.net - 1.3 * its.aligned
    np.testing.assert_allclose(scores[count - 1], wanted, rtol=1e-12)


def test_the_engine_and_a_replay_end_the_same_rows(in_float64):
  size = model_of('shared')[0].config.hidden_size
  rule = latent_trajectory(segment=2, directions=size, **WEIGHTS)
  told = run(rule=rule, state=STATE.replace(beta=jnp.float32(100)), shadow=0.0, directions=directions(size, size))
  free = run(rule=NEVER)
  np.testing.assert_array_equal(told.tokens, free.tokens)  # a threshold that no score reaches changes nothing
  np.testing.assert_array_equal(told.stop_reason, free.stop_reason)
  for n, length in enumerate(told.full_length):
    its = [signals(told.features.projections[n, : t + 1], 2) for t in range(length)]
    wanted = [np.finfo(told.z.dtype).min if x is None else 0.2 * x.cumulative - 0.7 * x.net - 1.3 * x.aligned for x in its]
    np.testing.assert_allclose(told.z[n, :length], wanted, rtol=1e-9)
  level = STATE.replace(beta=jnp.asarray(np.median(told.z[told.z > -1e9]) + 1e-6))
  rows = run(rule=rule, state=level, shadow=0.0)
  zeros = jnp.zeros_like(told.regret)
  seen = Observation(zeros, zeros, zeros, projections=jnp.asarray(told.features.projections))
  ends = replay.replay(rule, level, seen, jnp.asarray(told.full_length), jnp.asarray(told.tokens == EOS))
  np.testing.assert_array_equal(ends.length, rows.length)
  np.testing.assert_array_equal(ends.stopped, rows.stop_reason == StopReason.STOPPED)
  assert 0 < ends.stopped.sum() < ends.stopped.size


def test_rules_that_read_no_states_project_none(monkeypatch):
  """Nothing of what other rules read on demand is traced, so that their programs stay as they are."""
  monkeypatch.setattr(endings, '_on_demand', lambda *_: pytest.fail('a plain rule read something on demand'))
  run(rule=stops.regret_only(clip=3.25), state=STATE)


def test_more_directions_than_a_state_has_numbers_are_refused():
  with pytest.raises(ValueError, match=r'directions = 999: the stop rule projects states of \d+ numbers; fix: at most'):
    run(rule=latent_trajectory(segment=2, directions=999))


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'segment': 8}, r"segment = 8: the rule 'latent_trajectory' can never fire within rollout.horizon = 16"),
    ({'segment': 2, 'directions': 17}, r'directions = 17: a state has 16 numbers; fix: at most 16'),
    ({'segment': 2, 'aligned': 0.0}, r'the weights net, cumulative and aligned are all 0'),
  ],
)
def test_constants_that_make_no_sense_are_refused(changes, message):
  config = tiny_experiment().config.copy_and_resolve_references().unlock()
  config.stop.name = 'latent_trajectory'
  config.stop.latent_trajectory.update(changes)
  with pytest.raises(ConfigError, match=message):
    validate(config)


# ----------------------------------------------------------------------------------------------------------------- decoder


def test_the_first_straight_sample_is_taken_and_later_ones_cost_nothing():
  straight, bent = np.arange(8)[:, None] * np.ones(2), np.array([(0, 0), (4, 0), (0, 0), (1, 0)] * 2)
  lengths = np.array([4, 8, 6, 8, 8, 8])
  states = [its[:n].astype(np.float32) for its, n in zip([bent, bent, bent, straight, straight, bent], lengths, strict=True)]
  samples = decoders.Samples(list('abbcda'), np.ones(6, bool), lengths, projections=states)
  chosen = lambda **options: decoders.lt_select(segment=1, threshold=0.9, **options).choose(samples)
  assert chosen() == decoders.Choice(3, 4 + 8 + 6 + 8)
  assert chosen(tries=3) == decoders.Choice(1, 4 + 8 + 6)  # none passes, and two of three state b
  assert decoders.lt_select(segment=5).choose(samples.first(3)) == decoders.Choice(1, 18)  # no sample has two segments
  lengthy = decoders.lt_select(segment=1, threshold=-5.0, aligned=0.0, cumulative=1.0)  # all moves add up to 5 at most
  assert lengthy.choose(samples._replace(projections=[*states[:2], states[1][2:4], *states[3:]])) == decoders.Choice(2, 18)

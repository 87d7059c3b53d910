"""Rows that end because their answer is settled: DUET's rule, the engine, and what training makes of them."""

import jax.numpy as jnp
import numpy as np
import pytest
from rollouts import NEVER, STATE, run
from tiny import first_params, named, tiny_experiment

from espo_jax import stops
from espo_jax.experiment import make_rule
from espo_jax.learner import init_state
from espo_jax.stages import rl
from espo_jax.stops import Observation
from espo_jax.types import StopReason

MARKER = (7, 4)


def ends(draws, *, marker_at=17, low_at=22, length=60):
  """The token at which a row of the specification is ended, 0 for none: `p_1 - p_2` is 0.9, but for one token 0.4."""
  rule = stops.duet_settled(marker=MARKER, look_from=12)
  adaptive = stops.adaptive(rule)
  held, draws = rule.init(1, adaptive), iter(draws)
  for t in range(length):
    likeliest, second = (0.7, 0.3) if t == low_at else (0.95, 0.05)
    token = MARKER[0] if t == marker_at - 2 else MARKER[1] if t == marker_at - 1 else 1
    zero = jnp.zeros(1)
    noise = jnp.full(1, next(draws) if held.row[-1][0] >= 4 else 0.5)
    seen = Observation(zero, zero, noise, zero + np.log(likeliest), margin=zero + np.log(likeliest / second))
    held, stop, _ = rule.update(held, seen._replace(tokens=jnp.full(1, token, jnp.int32)))
    if stop[0]:
      return t
  return 0


def test_a_row_is_settled_where_the_specification_says():
  assert ends([0.5]) == 28
  assert ends([0.01, 0.5]) == 29  # the fifth token is forgiven
  assert ends([0.5], low_at=26) == 31  # the streak begins again
  assert ends([], marker_at=99) == 0


def candidates(tokens, marker, allowed):
  """The tokens after which a row of these tokens is ended by the rule, None for never."""
  rule = stops.candidate_answer(marker=marker, allowed=allowed)
  held = rule.init(1, stops.adaptive(rule))
  for t, token in enumerate(tokens):
    held, stop, _ = rule.update(held, Observation(*[jnp.zeros(1)] * 3, tokens=jnp.full(1, token, jnp.int32)))
    if stop[0]:
      return t + 1
  return None


def test_a_row_ends_with_the_last_candidate_that_it_is_allowed():
  trace = [5, 7, 4, 9, 7, 7, 4, 4, 7, 4]  # the marker ends at the tokens 3, 7 and 10
  assert [candidates(trace, MARKER, allowed) for allowed in (1, 2, 3, 4, 10**6)] == [3, 7, 10, None, None]
  assert candidates([4, 4, 4], (4, 4), 2) == 3  # candidates may overlap
  assert candidates([4], MARKER, 1) is None  # what was not written is no token of the marker


@pytest.mark.parametrize('rule', [stops.candidate_answer(), stops.duet_settled()])
def test_a_rule_does_not_wait_for_nothing(rule):
  zero = jnp.zeros(1)
  seen = Observation(zero, zero, zero, zero, margin=zero, tokens=jnp.zeros(1, jnp.int32))
  with pytest.raises(ValueError, match=r'marker = \(\): a rule waits for these token ids; fix: those of the text'):
    rule.update(rule.init(1, stops.adaptive(rule)), seen)


@pytest.mark.parametrize(('allowed', 'stops_some'), [(1, True), (10**6, False)])
def test_a_candidate_ends_a_row_and_changes_no_token_before_it(allowed, stops_some):
  free = run(rule=NEVER)
  marker = (int(np.bincount(free.tokens[:, :6].reshape(-1)).argmax()),)
  rule = stops.candidate_answer(marker=marker, allowed=allowed)._replace(reason=StopReason.SETTLED)
  rows = run(rule=rule, state=STATE.replace(beta=jnp.float32(allowed - 0.5)), shadow=1.0)
  settled = rows.stop_reason == StopReason.SETTLED
  assert settled.any() == stops_some and not settled.all()
  for n, length in enumerate(free.length):
    places = np.flatnonzero(free.tokens[n, :length] == marker[0])
    wanted = places[0] + 1 if stops_some and len(places) else length
    assert rows.length[n] == rows.full_length[n] == wanted
    np.testing.assert_array_equal(rows.tokens[n, :wanted], free.tokens[n, :wanted])


def settled_rule(marker):
  rule = stops.duet_settled(marker=marker, look_from=2, gap=0.05, streak=2, forgiven=0.0)
  return rule._replace(reason=StopReason.SETTLED)


@pytest.mark.parametrize('slots', [0, 4])
def test_a_settled_row_ends_and_never_goes_on(slots, in_float64):
  free = run(rule=NEVER)
  marker = (int(np.bincount(free.tokens[:, :6].reshape(-1)).argmax()),)
  rows = run(rule=settled_rule(marker), state=STATE.replace(beta=jnp.float32(1.5)), shadow=1.0, slots=slots)
  settled = rows.stop_reason == StopReason.SETTLED
  assert 0 < settled.sum() < settled.size
  assert not rows.shadow.any() and (rows.full_length == rows.length).all()
  assert (rows.length <= free.length).all() and (rows.length < free.length)[settled].any()
  counts = np.arange(rows.tokens.shape[1]) < rows.length[:, None]
  np.testing.assert_array_equal(np.where(counts, free.tokens, 0), np.where(counts, rows.tokens, 0))
  np.testing.assert_array_equal(rows.length[~settled], free.length[~settled])


def test_a_settled_row_is_graded_and_trained_on_like_one_that_ended_by_itself():
  exp = tiny_experiment(named(stop__name='duet_settled', stop__returns='graded'))
  marker = (int(exp.tokenizer.encode('0', add_special_tokens=False)[0]),)
  exp.config.stop.duet_settled.update(marker=marker, look_from=1, gap=0.0, streak=1, forgiven=0.0)
  rule = make_rule(exp.config, 'duet_settled')
  assert rule.reason is StopReason.SETTLED
  state = exp.on_mesh(init_state(first_params(exp, 0), rl.reinforcement_learner(exp, rule).optimizer, rule))
  state = state.replace(adaptive=state.adaptive.replace(enabled=exp.on_mesh(jnp.asarray(True))))
  seen = []
  step = rl.reinforcement_step(exp, rule, None)
  for number in (1, 2):
    opened = exp.on_mesh(jnp.asarray(True))
    state, metrics = step(state.replace(adaptive=state.adaptive.replace(enabled=opened)), number)
    seen.append(metrics)
  assert sum(float(metrics['stop/settled']) for metrics in seen) > 0
  for metrics in seen:
    assert metrics['stop/rate'] == 0 and metrics['rollout/shadow_tokens'] == 0
    assert float(metrics['accuracy']) == pytest.approx(float(metrics['accuracy_unstopped']))
    assert float(metrics['reward/correct']) == pytest.approx(float(metrics['accuracy']))


def test_the_threshold_of_a_rule_whose_stops_are_graded_moves_towards_its_target():
  """The controller counts the rows that the rule ended, though none of them counts as stopped."""
  exp = tiny_experiment(named(stop__returns='graded'))
  rule = make_rule(exp.config, 'espo', beta_0=-10.0, beta_min=-20.0, epsilon=0.01)  # ends every row at its first token
  state = exp.on_mesh(init_state(first_params(exp, 0), rl.reinforcement_learner(exp, rule).optimizer, rule))
  state = state.replace(adaptive=state.adaptive.replace(enabled=exp.on_mesh(jnp.asarray(True))))
  before = float(state.adaptive.beta)
  state, metrics = rl.reinforcement_step(exp, rule, None)(state, 1)
  settled = float(metrics['stop/settled']) / float(metrics['rollout/rows'])
  assert settled > exp.config.stop.target_rate and metrics['stop/rate'] == 0
  wanted = before + exp.config.stop.eta * (settled - exp.config.stop.target_rate)
  assert float(state.adaptive.beta) == pytest.approx(wanted, rel=1e-5)

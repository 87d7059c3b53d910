"""The gate that arms a rule where it saves tokens: the notes' values, and a loop over rows and thresholds."""

import jax.numpy as jnp
import numpy as np
import pytest
from tiny import tiny_experiment

from espo_jax import replay, stops
from espo_jax.configs import ConfigError, validate
from espo_jax.stops import Hindsight, Observation


def hindsight(z, full_length, correct, weight) -> Hindsight:
  z = jnp.asarray(z, jnp.float32)
  known = (jnp.asarray(full_length, jnp.int32), jnp.asarray(correct, jnp.float32), jnp.asarray(weight, jnp.float32))
  return Hindsight(z, *known, Observation(z, z, z, z), jnp.zeros(len(z), jnp.int32))


def attempts(share_of_failures=0.8, share_of_successes=0.1) -> Hindsight:
  """Attempts as in the notes: 40 % succeed after 30 tokens, the others fail after 60, and an alarm is a score of 1."""
  kinds = [  # weight, tokens, right, token of the alarm
    (0.4 * (1 - share_of_successes), 30, 1, None),
    (0.4 * share_of_successes, 30, 1, 15),
    (0.6 * (1 - share_of_failures), 60, 0, None),
    (0.6 * share_of_failures, 60, 0, 20),
  ]
  z = np.zeros((4, 61), np.float32)
  for row, (*_, alarm) in zip(z, kinds, strict=True):
    if alarm:
      row[alarm - 1] = 1.0
  weight, length, correct, _ = zip(*kinds, strict=True)
  return hindsight(z, length, correct, 1000 * np.array(weight))


def adapted(rule, batches, *, enabled=True):
  state = rule.init(1).adaptive.replace(enabled=jnp.asarray(enabled))
  for seen in batches:
    state = rule.adapt(state, seen.z, jnp.ones(seen.z.shape, bool), jnp.zeros(len(seen.z), bool), seen)
  return state


def expected(seen, level, reset=5.0):
  (tokens,), (solved,) = stops.gate_counts(seen, jnp.asarray([level], jnp.float32))
  return float((tokens + reset * (seen.weight.sum() - solved)) / solved)


def test_the_expectation_is_that_of_the_notes_and_of_the_closed_form():
  assert expected(attempts(), np.inf) == pytest.approx(127.5, abs=1e-3)
  assert expected(attempts(), 0.5) == pytest.approx(87.2222, abs=1e-3)
  assert expected(attempts(0.0, 0.0), 0.5) == pytest.approx(127.5, abs=1e-3)  # an alarm that never comes changes nothing
  for failures, successes in ((0.3, 0.2), (0.9, 0.6), (1.0, 0.0)):
    wanted = replay.expected_tokens(
      success=0.4,
      success_tokens=30,
      failure_tokens=60,
      true_positives=failures,
      false_positives=successes,
      true_alarm_tokens=20,
      false_alarm_tokens=15,
      reset_tokens=5,
    )
    assert expected(attempts(failures, successes), 0.5) == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize(('failures', 'successes', 'armed'), [(0.8, 0.1, True), (0.1, 0.8, False), (0.0, 0.0, False)])
def test_the_rule_is_armed_only_where_it_saves(failures, successes, armed):
  state = adapted(stops.makespan_gate(reset_tokens=5.0), [attempts(failures, successes)])
  assert np.isfinite(state.beta) == armed
  assert not armed or state.beta < 1  # below the score of the alarm
  few = adapted(stops.makespan_gate(reset_tokens=5.0, least_right=401.0, beta_0=3.0), [attempts(failures, successes)])
  assert few.beta == 3
  waits = adapted(stops.makespan_gate(), [attempts(failures, successes)], enabled=False)
  assert np.isposinf(waits.beta)


def test_the_threshold_has_the_fewest_tokens_of_a_loop_over_rows():
  rng, memory = np.random.default_rng(0), 0.7
  rule = stops.makespan_gate(reset_tokens=3.0, memory=memory, least_right=1.0)
  levels = [*np.geomspace(0.05, 5.0, 64).astype(np.float32).tolist(), np.inf]
  tokens, solved, count, batches, chosen = np.zeros(65), np.zeros(65), 0.0, [], []
  for _ in range(5):
    correct, full = rng.integers(0, 2, 50), rng.integers(1, 25, 50)
    z = rng.normal(0, 0.4, (50, 24)).cumsum(axis=1) * np.where(correct, 0.5, 1.0)[:, None]
    seen = hindsight(z, full, correct, rng.choice([0.0, 1.0, 4.0], 50))
    batches.append(seen)
    tokens, solved, count = memory * tokens, memory * solved, memory * count + float(seen.weight.sum())
    for n in range(50):
      last = full[n] if full[n] == 24 else full[n] - 1  # an end token cannot trigger a stop
      for k, level in enumerate(levels):
        above = [t for t in range(last) if np.float32(z[n, t]) > level]
        tokens[k] += float(seen.weight[n]) * (above[0] + 1 if above else full[n])
        solved[k] += float(seen.weight[n]) * (0 if above else correct[n])
    spent = (tokens + 3 * (count - solved)) / solved
    state = adapted(rule, batches)
    assert state.beta == np.float32(levels[int(spent.argmin())])
    chosen.append(float(state.beta))
  assert len(set(chosen)) > 1


def test_a_gate_without_shadow_rows_or_thresholds_is_refused():
  config = tiny_experiment().config.copy_and_resolve_references().unlock()
  config.stop.update(name='makespan_gate', shadow_share=0.0)
  with pytest.raises(ConfigError, match="the rule 'makespan_gate' counts rows that would be right, and only rows that go on"):
    validate(config)
  config.stop.shadow_share, config.stop.makespan_gate.beta_min = 0.5, 5.0
  with pytest.raises(ConfigError, match=r'stop.makespan_gate.beta_min = 5.0: no threshold lies below'):
    validate(config)

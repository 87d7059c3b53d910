"""Rules that prune: ARRoL with both signs and DUET's abort, against the specification's numbers and plain Python."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rounding
from rollouts import NEVER, STATE, run
from test_head import batch, random_head
from tiny import first_params, tiny_experiment

from espo_jax import stops
from espo_jax.experiment import make_rule
from espo_jax.learner import Checkpoints, init_state, restore
from espo_jax.stages import rl
from espo_jax.stops import Hindsight, Observation
from espo_jax.types import StopReason

RIGHT, WRONG = np.array([1.0, 2, 5, 12]), np.array([10.0, 6, 3, 1])
HALVES = {'kept': 0.5, 'balance': 0.5, 'least': 0.1, 'most': 0.9}


def test_the_posterior_and_survival_are_the_specifications(precision):
  counts = [jnp.asarray(x, precision) for x in (RIGHT, WRONG)]
  posterior = stops.bin_posterior(*counts)
  np.testing.assert_allclose(posterior, [0.1538, 0.3, 0.6, 0.8667], atol=5e-5)  # four digits are given
  found = stops.arrol_survival(posterior, sum(counts), **HALVES)
  np.testing.assert_allclose(found, [0.6751, 0.6020, 0.4520, 0.3187], atol=5e-5)
  assert float((found * sum(counts)).sum() / 40) == pytest.approx(0.5, abs=1e-5)


def test_the_half_in_the_papers_formula_makes_no_difference(in_float64):
  """`delta` absorbs every constant, so likely rows are pruned also where hardly any row is right."""
  posterior = jnp.asarray([0.02, 0.05, 0.1])
  found = stops.arrol_survival(posterior, jnp.ones(3), **HALVES)
  np.testing.assert_allclose(found, 0.5 - 0.5 * (posterior - posterior.mean()), atol=1e-10)


def test_without_rows_nothing_is_known():
  none = jnp.zeros(4)
  np.testing.assert_array_equal(stops.bin_posterior(none, none), 0.5)
  np.testing.assert_allclose(stops.arrol_survival(jnp.full(4, 0.5), none, **HALVES), 0.5, atol=1e-6)


@pytest.mark.parametrize(
  ('q', 'wanted'),
  [
    ([0.05, 0.1, 0.1, 0.2, 0.3, 0.6], [0.4125, 0.4375, 0.4375, 0.4875, 0.5375, 0.6875]),  # hard: likely successes go on
    ([0.95, 0.9, 0.9, 0.8, 0.7, 0.4], [0.4125, 0.4375, 0.4375, 0.4875, 0.5375, 0.6875]),  # easy: likely failures do
  ],
)
def test_the_signed_form_keeps_what_the_problem_lacks(q, wanted):
  q = jnp.asarray(q)
  np.testing.assert_allclose(stops.signed_survival(q, jnp.full(6, q.mean()), **HALVES), wanted, atol=1e-6)


def rules(**constants):
  return {name: stops.REGISTRY[name](probe=6, **constants) for name in ('arrol', 'arrol_signed')}


def state_of(rule, head=None):
  account = rule.init(1).adaptive.account
  return STATE.replace(head=head or random_head(12), account=account, beta=jnp.float32(0.0))


def prunes(rule):
  return rule._replace(reason=StopReason.PRUNED)


@pytest.mark.parametrize('name', ['arrol', 'arrol_signed'])
def test_if_every_row_survives_the_rollout_is_that_of_no_rule(name, in_float64):
  rule = rules(least_kept=1.0, kept=1.0, most_kept=1.0)[name]
  pruned, free = run(rule=prunes(rule), state=state_of(rule)), run(rule=NEVER, state=STATE)
  for field in ('tokens', 'length', 'full_length', 'stop_reason', 'shadow'):
    np.testing.assert_array_equal(getattr(pruned, field), getattr(free, field))


@pytest.mark.parametrize('name', ['arrol', 'arrol_signed'])
def test_a_row_is_judged_once_and_its_fate_does_not_depend_on_slots(name, in_float64):
  rule = rules()[name]
  whole = run(rule=prunes(rule), state=state_of(rule))
  reasons = whole.stop_reason
  assert (reasons == StopReason.PRUNED).any() and not (reasons == StopReason.STOPPED).any()
  assert (whole.length[reasons == StopReason.PRUNED] == 6).all() and (whole.length[reasons != StopReason.PRUNED] > 0).all()
  assert (whole.shadow == (whole.full_length > whole.length)).all() and whole.shadow.any()
  other = run(rule=prunes(rule), state=state_of(rule), slots=5, scan=3)
  for field in ('tokens', 'length', 'full_length', 'stop_reason', 'shadow'):
    np.testing.assert_array_equal(getattr(other, field), getattr(whole, field))


def test_random_pruning_keeps_the_share_that_it_should():
  """With `balance` 0 both forms are the control: every judged row goes on with probability `kept`."""
  noise = jnp.asarray(np.random.default_rng(0).random(20_000), jnp.float32)
  for rule in rules(balance=0.0, kept=0.3).values():
    held = rule.init(noise.size, state_of(rule))
    ended = jnp.zeros(noise.size, bool)
    for t in range(8):
      held, stop, _ = rule.update(held, Observation(0 * noise, 0 * noise, noise if t == 5 else 0 * noise, -noise))
      assert (t == 5) == bool(stop.any())
      ended |= stop
    assert abs(float(ended.mean()) - 0.7) < 4 * np.sqrt(0.21 / noise.size)


def test_counts_are_those_of_the_judged_rows_in_the_heads_bins():
  """The counts of two batches in plain Python: rows of less than `probe` tokens were not judged."""
  rule, memory = stops.arrol(probe=4, memory=0.75), 0.75
  adaptive = rule.init(1).adaptive.replace(head=random_head(12), enabled=jnp.asarray(True))
  right, wrong = np.zeros((2, stops.ARROL_BINS))
  for seed in (0, 1):
    seen, _ = batch(np.random.default_rng(seed), count=60)
    expected = np.asarray(stops.forecasts(adaptive.head, seen).success)[:, 3]
    right, wrong = memory * right, memory * wrong
    for n in range(60):
      if seen.full_length[n] > 4:  # the fourth token of a shorter row is its end
        place = min(int(stops.ARROL_BINS * expected[n]), stops.ARROL_BINS - 1)
        right[place] += float(seen.weight[n] * seen.correct[n])
        wrong[place] += float(seen.weight[n] * (1 - seen.correct[n]))
    blank = jnp.ones((60, 12))
    adaptive = rule.adapt(adaptive, blank, blank > 0, jnp.zeros(60, bool), seen)
  found = np.asarray(adaptive.account).reshape(3, -1)
  np.testing.assert_allclose(found[0], right, rtol=1e-5, atol=1e-5)
  np.testing.assert_allclose(found[1], wrong, rtol=1e-5, atol=1e-5)
  posterior = stops.bin_posterior(jnp.asarray(right), jnp.asarray(wrong))
  np.testing.assert_allclose(found[2], stops.arrol_survival(posterior, jnp.asarray(right + wrong), **HALVES), atol=1e-5)


@pytest.mark.parametrize('name', ['arrol', 'duet_abort'])
def test_what_a_pruning_rule_remembers_is_kept_to_the_bit(name, tmp_path):
  exp = tiny_experiment(lambda c: c.stop.update(name=name, returns='drop'))
  rule = make_rule(exp.config, name)
  assert rule.reason is StopReason.PRUNED
  learner = rl.reinforcement_learner(exp, rule)
  state = exp.on_mesh(init_state(first_params(exp, 0), learner.optimizer, rule))
  account = np.random.default_rng(0).random(state.adaptive.account.shape).astype(np.float32)
  state = state.replace(adaptive=state.adaptive.replace(account=exp.on_mesh(jnp.asarray(account))))
  with Checkpoints(tmp_path / 'steps') as checkpoints:
    checkpoints.save(1, state, done=True)
  fresh = exp.on_mesh(init_state(first_params(exp, 1), learner.optimizer, rule))
  jax.tree.map(np.testing.assert_array_equal, restore(tmp_path / 'steps', fresh).state.adaptive, state.adaptive)


# ------------------------------------------------------------------------------------------------------------- DUET's abort


def lengths_seen(lengths) -> Hindsight:
  """Rows of which nothing but the length is known."""
  count = len(lengths)
  wide, ones = jnp.zeros((count, 4)), jnp.ones(count)
  return Hindsight(
    wide, jnp.asarray(lengths, jnp.int32), ones, ones, Observation(wide, wide, wide, wide), jnp.zeros(count, jnp.int32)
  )


def adapted(rule, adaptive, lengths, stopped):
  blank = jnp.zeros((len(lengths), 4))
  return rule.adapt(adaptive, blank, blank == 0, jnp.asarray(stopped), lengths_seen(lengths))


def test_the_deadline_is_a_quantile_of_the_newest_lengths_of_rows_that_were_not_stopped(precision):
  rule, rng = stops.duet_abort(quantile=0.8, grace=7), np.random.default_rng(3)
  adaptive, kept = rule.init(1).adaptive, []
  adaptive = adapted(rule, adaptive, [5, 6], [True, True])
  assert adaptive.beta == np.inf  # no length is known
  for _ in range(5):
    lengths, stopped = rng.integers(1, 500, 300), rng.random(300) < 0.2
    adaptive = adapted(rule, adaptive, lengths, stopped)
    kept = [*lengths[~stopped], *kept][:1024]
    rounding.assert_close(adaptive.beta, np.quantile(kept, 0.8) + 7 - 1, roundings=4)
  assert len(kept) == 1024


def test_a_row_is_ended_at_the_deadline_unless_it_is_spared():
  rule = stops.duet_abort(grace=10)  # the specification's numbers: a draw of 0.5 ends a row at token 40, one of 0.01 does not
  adaptive = adapted(rule, rule.init(1).adaptive, [30] * 8 + [0], [False] * 9).replace(enabled=jnp.asarray(True))
  noise = jnp.asarray([0.01, 0.04, 0.06, 0.5])
  held, ends = rule.init(4, adaptive), np.zeros(4, int)
  for t in range(1, 60):
    held, stop, _ = rule.update(held, Observation(0 * noise, 0 * noise, noise if t == 1 else 0 * noise))
    ends = np.where((ends == 0) & np.asarray(stop), t, ends)
  np.testing.assert_array_equal(ends, [0, 0, 40, 40])


def test_the_deadline_moves_down_by_itself_while_the_policy_stays():
  """The specification's simulation: log-normal lengths of median 900, and most of the rows that the fixed point ends."""
  rule, rng = stops.duet_abort(grace=0, spared=0.05), np.random.default_rng(0)
  adaptive, deadlines, ended = rule.init(1).adaptive, [], []
  for _ in range(40):
    lengths = rng.lognormal(np.log(900), 0.6, 256).astype(int)
    stopped = (lengths > float(adaptive.beta)) & (rng.random(256) > 0.05)
    ended.append(stopped.mean())
    adaptive = adapted(rule, adaptive, lengths, stopped)
    deadlines.append(float(adaptive.beta))
  assert deadlines[0] > 1300 and deadlines[-1] < 700
  assert np.mean(ended[-5:]) > 0.5 > np.mean(ended[1:4])


# ---------------------------------------------------------------------------------------------------------------- training


@pytest.mark.parametrize(
  ('rule', 'constants'),
  [('arrol', {'probe': 5}), ('arrol_signed', {'probe': 5}), ('duet_abort', {'grace': 0, 'quantile': 0.5})],
)
def test_a_run_prunes_rows_and_trains_on_the_rest(rule, constants):
  def configure(c):
    c.stop.update(name=rule, returns='drop')
    c.stop[rule].update(constants)
    c.objective.name = 'grpo'
    c.rollout.update(prompts=4, samples=4)

  exp = tiny_experiment(configure)
  own = make_rule(exp.config, rule)
  state = exp.on_mesh(init_state(first_params(exp, 0), rl.reinforcement_learner(exp, own).optimizer, own))
  step = rl.reinforcement_step(exp, own, None)
  state, _ = step(state, 1)
  opened = [exp.on_mesh(jnp.asarray(True)) for _ in range(2)]  # both are donated
  state = state.replace(adaptive=state.adaptive.replace(enabled=opened[0]), gate=state.gate.replace(open=opened[1]))
  norms = []
  for number in (2, 3, 4):
    state, metrics = step(state, number)
    assert 0 < metrics['stop/rate'] < 1
    assert float(metrics['rollout/kept']) == pytest.approx(1 - float(metrics['stop/rate']))
    norms.append(float(metrics['grad_norm']))
  assert np.isfinite(norms).all() and max(norms) > 0

"""The head of our stop rules: its regressions, what it learns from stopped batches, and the rules that read it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rounding
from rollouts import STATE, run
from scipy import optimize
from tiny import first_params, rolled_out, tiny_experiment

from espo_jax import stops
from espo_jax.configs import ConfigError, validate
from espo_jax.experiment import make_rule
from espo_jax.learner import Checkpoints, init_state, restore
from espo_jax.stages import rl
from espo_jax.stops import Head, Hindsight, Observation, Regression, evidence
from espo_jax.types import StopReason

FEATURES = 21
BETA = 0.125  # exact in any precision
VALUE, SURPRISE = 3, 6  # the features that the tests below steer: the value's change, the mean surprise


def head_of(success, remaining, platt=(1.0, 0.0)) -> Head:
  fresh = stops.new_head()
  success, remaining = (Regression(jnp.asarray(x, jnp.float32), fresh.success.curvature) for x in (success, remaining))
  return Head(success, remaining, Regression(jnp.asarray(platt, jnp.float32), fresh.platt.curvature), jnp.ones((), jnp.int32))


def random_head(seed=0) -> Head:
  rng = np.random.default_rng(seed)
  scale = np.where(np.arange(FEATURES) < 9, 1.0, 0.05)  # octaves alone stop no row
  return head_of(scale * rng.normal(0, 1, FEATURES), scale * rng.normal(0, 0.5, FEATURES), (0.7, -0.2))


# -------------------------------------------------------------------------------------------------------------- regressions


@pytest.mark.parametrize('memory', [0.0, 0.8, 1.0])
@pytest.mark.parametrize('poisson', [False, True])
def test_newton_steps_end_at_the_likeliest_weights_given_earlier_batches(in_float64, poisson, memory):
  rng = np.random.default_rng(3)
  x = np.concatenate([np.ones((400, 1)), rng.normal(0, 1, (400, 3))], axis=1)
  linear, weight = x @ [0.3, 0.8, -0.5, 0.2], rng.choice([0.0, 1.0, 4.0], 400)
  y = rng.poisson(np.exp(linear)) if poisson else (rng.random(400) < 1 / (1 + np.exp(-linear)))
  before, root = rng.normal(0, 0.5, 4), rng.normal(0, 5, (4, 4))
  curvature = root @ root.T

  def loss(b):
    z = x @ b
    likely = (weight * (np.exp(z) - y * z if poisson else np.logaddexp(0, z) - y * z)).sum()
    return likely + 0.5 * memory * (b - before) @ curvature @ (b - before)

  best = optimize.minimize(loss, before, tol=1e-12).x
  model = Regression(jnp.asarray(before), jnp.asarray(curvature))
  found = stops.newton(model, *map(jnp.asarray, (x, y.astype(float), weight)), poisson=poisson, memory=memory, steps=60)
  np.testing.assert_allclose(found.weights, best, atol=1e-5)  # scipy's differences


def test_one_newton_step_has_the_specifications_numbers(precision):
  x = np.array([[1, 0.0, 0.2], [1, 1.0, 0.1], [1, 2.0, 0.5], [1, 0.5, 0.9], [1, 1.5, 0.3], [1, 0.2, 0.7]])
  y, w = np.array([1.0, 1, 0, 1, 0, 0]), np.array([1.0, 1, 4, 1, 0, 1])
  arrays = [jnp.asarray(a, precision) for a in (x, y, w)]
  model = Regression(jnp.asarray([-0.5, 0.0, 0.0], precision), 5 * jnp.eye(3, dtype=precision))
  found = stops.newton(model, *arrays, memory=0.8, steps=1)
  np.testing.assert_allclose(found.weights, [-0.3863, -0.2985, -0.0104], atol=5e-5)  # four digits are given


def test_a_step_is_never_longer_than_one(in_float64):
  x, y = jnp.asarray([[1.0, 50.0], [1.0, -50.0]]), jnp.asarray([1e6, 0.0])
  model = Regression(jnp.zeros(2), 1e-3 * jnp.eye(2))
  found = stops.newton(model, x, y, jnp.ones(2), poisson=True, memory=1.0, steps=1)
  assert np.linalg.norm(found.weights) == pytest.approx(1.0)


# ------------------------------------------------------------------------------------------------------------------ the rules


def plain_features(regret, values, logprobs):
  """The features after each token of one row, in float64, token by token."""
  found, smooth, late = [], 0.0, 0.0
  for t in range(len(regret)):
    smooth, late = 0.9 * smooth + 0.1 * regret[t], 0.9 * late - 0.1 * logprobs[t]
    most, mean = regret[: t + 1].max(), -logprobs[: t + 1].sum() / (t + 11)
    change = values[t] - values[0]
    octave = np.arange(12) == min(int(np.log2(t + 1)), 11)
    found.append([1, values[0], 1, change, np.log1p(smooth), np.log1p(most), mean, late, np.log1p(t + 1), *octave])
  return np.array(found)


def plain_scores(name, head, x, value):
  """The rule's score after each token of one row, in float64."""
  success, remaining, platt = (np.asarray(its.weights, np.float64) for its in (head.success, head.remaining, head.platt))
  start = np.array([1, value, *np.zeros(FEATURES - 2)])
  p, p_0 = (1 / (1 + np.exp(-(platt[0] * (a @ success) + platt[1]))) for a in (x, start))
  left, left_0 = (np.exp(a @ remaining) for a in (x, start))
  if name == 'own_price':
    return np.where(left >= 0.1 * left_0, np.log(p_0 * left / (p * left_0)), 0.0)
  return np.log(p_0 * (1 - p_0) * left / (p * (1 - p) * left_0))


def rule_with(name, head, **constants):
  return stops.with_head(stops.REGISTRY[name](least_batches=0, **constants), head=head)


@pytest.mark.parametrize('name', ['own_price', 'wald'])
def test_the_engine_scores_every_token_as_the_formula_says(name, in_float64):
  head = random_head(12)
  rule = rule_with(name, head)
  rows = run(rule=rule, state=STATE.replace(beta=jnp.float32(BETA), head=head), shadow=1.0)
  assert 0 < (rows.stop_reason == StopReason.STOPPED).sum() < len(rows.length)
  for n, length in enumerate(rows.full_length):
    regret, values, logprobs = (np.asarray(x[n, :length], np.float64) for x in (rows.regret, rows.values, rows.logprobs))
    wanted = plain_scores(name, head, plain_features(regret, values, logprobs), values[0])
    np.testing.assert_allclose(rows.z[n, :length], wanted, rtol=1e-9, atol=1e-9)
    if rows.stop_reason[n] == StopReason.STOPPED:
      assert rows.length[n] - 1 == np.argmax(wanted > BETA)


def test_a_sample_depends_neither_on_slots_nor_on_chunks(in_float64):
  head = random_head(12)
  state, rule = STATE.replace(beta=jnp.float32(BETA), head=head), rule_with('own_price', head)
  whole, other = run(rule=rule, state=state), run(rule=rule, state=state, slots=5, scan=3)
  for field in ('tokens', 'length', 'full_length', 'stop_reason', 'shadow'):
    np.testing.assert_array_equal(getattr(other, field), getattr(whole, field))


def verdict(name, p, left, p_0=0.4, left_0=40.0, kappa=0.8):
  """Whether the rule stops a row whose head says `p` and `left`, on its second token."""
  weights = np.zeros((2, FEATURES))
  weights[0, [0, VALUE]] = np.log(p_0 / (1 - p_0)), 1.0
  weights[1, [0, SURPRISE]] = np.log(left_0), 1.0
  rule = rule_with(name, head_of(*weights))
  state = rule.init(1).adaptive.replace(enabled=jnp.asarray(True), beta=jnp.float32(-np.log(kappa)))
  held = rule.init(1, state)
  change = np.log(p / (1 - p)) - np.log(p_0 / (1 - p_0))
  for value, logprob in ((0.0, 0.0), (change, -12 * np.log(left / left_0))):
    seen = (jnp.zeros(1), jnp.full(1, value), jnp.zeros(1), jnp.full(1, logprob))
    held, stop, _ = rule.update(held, Observation(*seen))
  return bool(stop[0])


@pytest.mark.parametrize(('p', 'left', 'stopped'), [(0.2, 20.0, False), (0.15, 20.0, True), (0.03, 4.0, True)])
def test_own_price_has_the_specifications_verdicts(p, left, stopped):
  assert verdict('own_price', p, left) == stopped


@pytest.mark.parametrize(
  ('name', 'p', 'left', 'stopped'),
  [
    ('own_price', 0.001, 3.9, False),  # less than a tenth of a fresh row is left
    ('own_price', 0.99, 40.0, False),  # a sure success
    ('wald', 0.99, 40.0, True),
    ('wald', 0.01, 40.0, True),
    ('wald', 0.4, 40.0, False),
    ('wald', 0.4, 60.0, True),
  ],
)
def test_which_rows_are_not_worth_their_tokens(name, p, left, stopped):
  assert verdict(name, p, left) == stopped


@pytest.mark.parametrize('name', ['own_price', 'wald'])
def test_a_kappa_of_zero_stops_nothing_and_neither_does_a_new_head(name):
  rule = stops.REGISTRY[name](least_batches=1)
  young = random_head(12).replace(batches=jnp.int32(0))
  for beta, head in ((np.inf, random_head(12)), (0.223, stops.new_head()), (0.0, young)):
    rows = run(rule=rule, state=STATE.replace(beta=jnp.float32(beta), head=head))
    assert not (rows.stop_reason == StopReason.STOPPED).any()


def test_the_head_is_right_about_the_first_tokens_too():
  """A line through the tokens is not: rows of 40 tokens whose chance falls at the twentieth, and a fresh row among them."""
  rng, count, horizon = np.random.default_rng(1), 2000, 41
  head, at = stops.new_head(), np.arange(1, horizon + 1)
  for _ in range(12):
    correct = rng.permutation(count) < 0.3 * count
    noise = rng.exponential(0.1, (count, horizon)) + ((at >= 20) & ~correct[:, None]) * 1.0
    seen = Observation(*(jnp.asarray(x, jnp.float32) for x in (noise, 0 * noise + 0.3, 0 * noise, -noise)))
    ones = jnp.ones(count)
    told = Hindsight(
      jnp.zeros((count, horizon)),
      40 * ones.astype(jnp.int32),
      jnp.asarray(correct, jnp.float32),
      ones,
      seen,
      jnp.zeros(count, jnp.int32),
    )
    head = stops.fit_head(head, told, memory=0.9)
  after, start = stops.forecasts(head, told), stops.forecast(head, evidence.at_start(evidence.along(seen, told.begins)))
  assert abs(start.success[0, 0] - 0.3) < 0.05 and abs(start.remaining[0, 0] / 40 - 1) < 0.05
  for t in (0, 1, 3, 7):
    assert abs(after.success[:, t].mean() - 0.3) < 0.1
    assert abs(after.remaining[:, t].mean() / (39 - t) - 1) < 0.1
  worse = np.log(start.success[:, :1] / after.success * after.remaining / start.remaining[:, :1])
  assert (worse[:, 0] < 0.223).mean() > 0.95 and (worse[:, :12] < 0.223).mean() > 0.9
  assert (worse[~correct, 30] > 0.223).mean() > 0.95


# ------------------------------------------------------------------------------------------------------- learning from batches


def batch(rng, count=400, horizon=12, share=0.25, stop_below=0.3):
  """Rows whose value tells something of how likely they are to end right; the unlikely ones are stopped."""
  chance = rng.beta(1, 1.5, count)
  correct = rng.random(count) < chance
  told = np.log(chance / (1 - chance)) + rng.normal(0, 1.5, count)  # what stops rows knows more than the head is shown
  values = np.repeat(told[:, None], horizon, axis=1)
  shadow = rng.random(count) < share
  weight = np.where(chance < stop_below, shadow / share, 1.0)
  full = rng.integers(2, horizon, count)
  noise = rng.exponential(0.3, (count, horizon))
  seen = Observation(*(jnp.asarray(x, jnp.float32) for x in (noise, values, 0 * noise, -noise)))
  arrays = (jnp.zeros((count, horizon)), jnp.asarray(full, jnp.int32), jnp.asarray(correct, jnp.float32))
  hindsight = Hindsight(*arrays, jnp.asarray(weight, jnp.float32), seen, jnp.zeros(count, jnp.int32))
  return hindsight, chance


def test_the_head_is_calibrated_on_all_rows_and_not_on_the_survivors():
  rng = np.random.default_rng(0)
  head = survivors = stops.new_head()
  fit = jax.jit(lambda head, seen: stops.fit_head(head, seen, memory=0.9))
  for _ in range(30):
    seen, chance = batch(rng)
    head = fit(head, seen)
    survivors = fit(survivors, seen._replace(weight=jnp.where(seen.weight == 1, 1.0, 0.0), correct=seen.correct))
  seen, chance = batch(np.random.default_rng(99), count=4000, share=1.0)
  expected = np.asarray(stops.forecasts(head, seen).success[:, 0])
  assert abs(expected.mean() - chance.mean()) < 0.03
  left = np.asarray(stops.forecasts(head, seen).remaining)
  real = np.asarray(seen.stoppable)
  wanted = np.asarray(seen.full_length)[:, None] - np.arange(1, 13)
  assert abs(left[real].mean() / wanted[real].mean() - 1) < 0.05
  start = stops.forecast(head, evidence.at_start(evidence.along(seen.seen, seen.begins)))
  assert abs(start.success.mean() - chance.mean()) < 0.03
  assert abs(start.remaining.mean() / np.asarray(seen.full_length).mean() - 1) < 0.05
  told = stops.head_calibration(stops.forecasts(head, seen), seen)
  assert abs(float(told['expected'] - told['right'])) < 0.03 and float(told['error']) < 0.05
  assert float(told['brier']) == pytest.approx(((expected - np.asarray(seen.correct)) ** 2).mean(), abs=0.01)
  assert stops.forecasts(survivors, seen).success[:, 0].mean() > chance.mean() + 0.1


def test_tokens_that_were_given_are_no_evidence():
  """A row that was given its first three tokens has the evidence of what it sampled afterwards."""
  rng = np.random.default_rng(5)
  arrays = [jnp.asarray(rng.exponential(1.0, (2, 9)), jnp.float32) for _ in range(4)]
  behind = evidence.along(Observation(*arrays), jnp.asarray([3, 3]))
  alone = evidence.along(Observation(*(x[:, 3:] for x in arrays)), jnp.asarray([0, 0]))
  for field in dataclasses.fields(alone):
    np.testing.assert_array_equal(getattr(behind, field.name)[:, 3:], getattr(alone, field.name))


def test_the_learner_pays_what_the_head_expected_at_the_stop(in_float64):
  def configure(c):
    c.stop.update(returns='head', shadow_share=0.25)
    c.advantage.update(whiten=False)

  params, rows, reward = rolled_out(tiny_experiment())
  exp = tiny_experiment(configure)
  rule = make_rule(exp.config, 'espo')
  learner = rl.reinforcement_learner(exp, rule)
  state = exp.on_mesh(init_state(first_params(exp, 0), learner.optimizer, rule))
  assert state.adaptive.head is not None and make_rule(exp.config, 'never').init(1).adaptive.head is not None
  head = random_head(4)
  seen = learner._hindsight(rows, jnp.zeros(rows.length.shape))
  expected = np.asarray(stops.forecasts(head, seen).success)
  paid = expected[np.arange(len(expected)), np.asarray(rows.length) - 1]
  prepared, _ = learner.prepare(params, None, rows, reward.replace(success=jnp.asarray(paid)))
  outcome = np.where(rows.stopped, paid, reward.sequence)
  wanted = np.where(rows.mask, outcome[:, None] - np.asarray(rows.values), 0.0)  # gamma and lambda are 1
  np.testing.assert_allclose(prepared.advantages, wanted, rtol=1e-9, atol=1e-9)


def test_a_run_keeps_its_head_to_the_bit_and_hands_it_to_its_arms(tmp_path):
  exp = tiny_experiment(lambda c: c.stop.update(name='own_price', returns='head'))
  rule = make_rule(exp.config, 'own_price')
  learner = rl.reinforcement_learner(exp, rule)
  state = exp.on_mesh(init_state(first_params(exp, 0), learner.optimizer, rule))
  state = state.replace(adaptive=state.adaptive.replace(head=exp.on_mesh(random_head(2))))
  with Checkpoints(tmp_path / 'steps') as checkpoints:
    checkpoints.save(1, state, done=True)
  fresh = exp.on_mesh(init_state(first_params(exp, 1), learner.optimizer, rule))
  found = restore(tmp_path / 'steps', fresh).state
  jax.tree.map(np.testing.assert_array_equal, found.adaptive, state.adaptive)
  jax.tree.map(np.testing.assert_array_equal, rl.fork(state, rule).adaptive.head, state.adaptive.head)
  assert rl.fork(state, stops.never()).adaptive.head is None


@pytest.mark.parametrize(
  ('changes', 'told'),
  [({'returns': 'head'}, "stop.returns = 'head' fits a head"), ({'name': 'own_price'}, "the rule 'own_price' fits a head")],
)
def test_a_head_without_shadow_rows_is_refused(changes, told):
  exp = tiny_experiment()
  config = exp.config.copy_and_resolve_references().unlock()
  config.stop.update(shadow_share=0.0, **changes)
  with pytest.raises(ConfigError, match=rf'stop.shadow_share = 0.0: {told}, and only rows that go on'):
    validate(config)


def test_bounds_hold():
  """A forecast is finite whatever a head is asked."""
  extreme = evidence.Evidence(*[jnp.full(3, 1e30)] * 7)
  head = head_of(np.ones(FEATURES), np.ones(FEATURES))
  assert np.isfinite(stops.forecast(head, extreme).remaining).all()
  rounding.assert_close(stops.forecast(stops.new_head(), evidence.first(2)).success, np.full(2, 0.5), roundings=2)

"""Every stop rule against a float64 replay of the paper's table, and its controller in a closed loop."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rounding
from hypothesis import given, settings
from hypothesis import strategies as st

from espo_jax import registry, stops
from espo_jax.stops import Adaptive, Hindsight, Observation, surrogate_regret

pytestmark = pytest.mark.usefixtures('no_rank_promotion', 'no_dtype_promotion')

ALL = tuple(stops.REGISTRY)
JUDGING = ('arrol', 'arrol_signed')
SETTLED = {'marker': (3,), 'look_from': 8, 'gap': 0.3, 'forgiven': 0.0}
PROBING = ('deer', 'answer_convergence', 'answer_entropy')
ALONE = ('never', 'dead_groups')  # no row is stopped by itself
HEADED = ('own_price', 'wald', 'dead_groups', 'hazard_head', *JUDGING)
# Constants with which rows of a few tokens stop.
SMALL = {'deepconf': {'window': 4}, 'duet_settled': SETTLED, 'latent_trajectory': {'segment': 3, 'directions': 2}}
SMALL |= {'candidate_answer': {'marker': (3, 3)}, 'answer_convergence': {'answer_tokens': 2}} | {
  name: {'probe': 40} for name in JUDGING
}
SMALL |= {name: {'least_batches': 0} for name in ('own_price', 'wald', 'hazard_head')}
STEERED = tuple(
  name
  for name in ALL
  if name not in ('never', 'risk_control', 'makespan_gate', 'duet_abort', 'duet_settled', 'candidate_answer', *PROBING, *HEADED)
)


def some_head() -> stops.Head:
  rng, fresh = np.random.default_rng(6), stops.new_head()
  success, remaining = (its.replace(weights=jnp.asarray(rng.normal(0, 0.5, 21), jnp.float32)) for its in (fresh.success,) * 2)
  return fresh.replace(success=success, remaining=remaining)


def adaptive(mu=0.0, var=1.0, beta=1.0, *, batches=1, enabled=True) -> Adaptive:
  scalars = (jnp.float32(mu), jnp.float32(var), jnp.int32(batches), jnp.float32(beta), jnp.asarray(enabled))
  head = some_head()
  return Adaptive(*scalars, head=head, hazard=stops.Hazard(head.success, head.batches))


def rollout(rule, state: Adaptive, regret, values, noise):
  """The rule over whole rows: z and stop, `[N, T]`. The likeliest token is certain, so that log-probabilities are -regrets."""

  state = state.replace(account=rule.init(1).adaptive.account)

  def step(carry, xs):
    tokens = (8 * xs[2]).astype(jnp.int32)
    read = {'margin': xs[0] + 0.5, 'confidence': xs[0], 'projections': jnp.stack(xs[:2], axis=1)}
    two, length = jnp.stack(xs[:2], axis=1), jnp.where(xs[2] < 0.9, 2, 1).astype(jnp.int32)
    answer = stops.ForcedAnswer(jnp.stack([tokens // 2] * 2, axis=1), -two, jnp.abs(two), length, length)
    seen = Observation(*xs, -xs[0], tokens=tokens, answer=answer, **read)
    carry, stop, score = rule.update(carry, seen)
    return carry, (carry.z, stop, score)

  final, (z, stop, score) = jax.lax.scan(step, rule.init(regret.shape[0], state), (regret.T, values.T, noise.T))
  return final, z.T, stop.T, score.T


def rows(seed: int, count=200, horizon=60, dtype=np.float32):
  """Random regrets (often zero, as when the likeliest token is drawn), values and uniforms of `count` rows."""
  rng = np.random.default_rng(seed)
  regret = rng.exponential(1.0, (count, horizon)) * (rng.random((count, horizon)) < 0.4)
  values = rng.normal(0.4, 0.4, (count, 1)) + rng.normal(0.0, 0.1, (count, horizon))
  return tuple(x.astype(dtype) for x in (regret, values, rng.random((count, horizon))))


def replay(name, state, regret, values, noise, *, smoothing=0.9, clip=5.0, delta=1e-8, epsilon=0.2):
  """The paper's table in float64, token by token: score and threshold of every token."""
  mu, var, beta = (float(x) for x in (state.mu, state.var, state.beta))
  regret, values, noise = (x.astype(np.float64) for x in (regret, values, noise))
  score, threshold = np.zeros(regret.shape), np.zeros(regret.shape)
  for n in range(regret.shape[0]):
    z = 0.0
    for t in range(regret.shape[1]):
      normalised = min(max((regret[n, t] - mu) / np.sqrt(var + delta), -clip), clip)
      z = smoothing * z + (1 - smoothing) * normalised
      score[n, t], threshold[n, t] = {
        'espo': (z, beta * max(values[n, t], epsilon)),
        'risk_control': (z, beta),
        'regret_only': (z, beta),
        'value_only': (-values[n, t], beta),
        'random': (-np.log(noise[n, t]), beta),
        'never': (0.0, np.inf),
        'mean_logprob': (regret[n, : t + 1].mean() if t + 1 >= 16 else 0.0, beta),
      }[name]
  return score, threshold


def hindsight(rng, count, horizon, dtype=np.float32) -> Hindsight:
  """Rows whose failures have a token of high score, with weights as those of shadow rows."""
  correct = (rng.random(count) < 0.5).astype(dtype)
  z = rng.normal(0, 0.3, (count, horizon))
  z[np.arange(count), rng.integers(0, horizon, count)] += np.where(
    correct, rng.exponential(0.3, count), rng.exponential(2.0, count)
  )
  weight = rng.choice([0.0, 1.0, 4.0], count)
  arrays = (
    z.astype(dtype),
    rng.integers(1, horizon + 1, count).astype(np.int32),
    correct,
    weight.astype(dtype),
  )
  regret = rng.exponential(1.0, (count, horizon)).astype(dtype)
  seen = Observation(*map(jnp.asarray, (regret, -regret, 0 * regret, -regret)))
  return Hindsight(*map(jnp.asarray, arrays), seen, jnp.zeros(count, jnp.int32))


# ------------------------------------------------------------------------------------------------------- surrogate regret


def test_surrogate_regret_is_the_gap_of_log_probabilities(precision):
  rng = np.random.default_rng(0)
  logits = rng.normal(0, 3, (5, 7, 11)).astype(precision)
  tokens = rng.integers(0, 11, (5, 7)).astype(np.int32)
  exact = logits.astype(np.float64)
  logprobs = exact - np.log(np.exp(exact).sum(-1, keepdims=True))
  wanted = logprobs.max(-1) - np.take_along_axis(logprobs, tokens[..., None], -1)[..., 0]
  got = np.asarray(surrogate_regret(jnp.asarray(logits), jnp.asarray(tokens)))
  rounding.assert_close(got, wanted, roundings=2, size=np.abs(logprobs).max())
  assert (got >= 0).all()
  np.testing.assert_array_equal(got == 0, tokens == logits.argmax(-1))
  assert 0 < (got == 0).sum() < got.size


def test_surrogate_regret_carries_no_gradient():
  logits = jnp.asarray(np.random.default_rng(0).normal(size=(4, 6)), jnp.float32)
  assert not np.any(jax.grad(lambda x: surrogate_regret(x, jnp.arange(4)).sum())(logits))


# ------------------------------------------------------------------------------------------------------------- decisions


PUBLISHED = {'smoothing': 0.9, 'clip': 5.0, 'delta': 1e-8, 'epsilon': 0.2}
OTHER = {'smoothing': 0.5, 'clip': 1.2, 'delta': 0.3, 'epsilon': 0.35}


@pytest.mark.parametrize('constants', [PUBLISHED, OTHER], ids=['published', 'other'])
@pytest.mark.parametrize(
  ('name', 'beta'),
  [
    ('espo', 1.4),
    ('risk_control', 0.45),
    ('regret_only', 0.45),
    ('value_only', 0.1),
    ('random', 4.5),
    ('never', 0.0),
    ('mean_logprob', 0.45),
  ],
)
def test_rule_is_the_papers_table(precision, name, beta, constants):
  rule = stops.REGISTRY[name](**{k: v for k, v in constants.items() if k in stops.arguments(name)})
  state, observed = adaptive(mu=0.37, var=0.8, beta=beta), rows(seed=1, dtype=precision)
  lengths = np.random.default_rng(2).integers(1, 61, 200)
  run = jax.jit(lambda *xs: rollout(rule, *xs)[1:])
  z, stop, got = map(np.asarray, run(state, *observed))
  score, threshold = replay(name, state, *observed, **constants)

  steps = 3 * 60 + 6  # operations on a row's tokens, one after the other
  bound = (
    rounding.of_program(run, state, *observed, roundings=steps)[2] + rounding.gamma(steps, precision) * np.abs(score).max()
  )
  rounding.assert_within(got, score, bound)
  np.testing.assert_array_equal(got, z)
  rounding.assert_close(rule.threshold(state, jnp.asarray(observed[1])), threshold, roundings=3)

  wanted = score > threshold
  differs = stop != wanted
  ties = np.abs(score - threshold) < bound + rounding.gamma(3, precision) * np.abs(threshold)
  assert ties[differs].all()  # only what rounding leaves open may go the other way
  assert differs.sum() <= 2
  real = np.arange(60) < lengths[:, None]
  step = lambda decisions: np.where((decisions & real).any(1), (decisions & real).argmax(1), -1)
  same = ~differs.any(1)
  np.testing.assert_array_equal(step(stop)[same], step(wanted)[same])
  share = (step(wanted) >= 0).mean()
  assert share == 0 if name == 'never' else 0.05 < share < 0.95  # the replay had something to decide


@pytest.mark.parametrize('name', ALL)
def test_what_comes_later_never_changes_a_decision(name):
  rule, state = stops.REGISTRY[name](**SMALL.get(name, {})), adaptive(mu=0.37, var=0.8, beta=0.3)
  observed, other = rows(seed=3, count=50), rows(seed=4, count=50)
  run = jax.jit(lambda *xs: rollout(rule, state, *xs))
  for t in (0, 20, 59):
    mixed = [np.where(np.arange(60)[None] <= t, a, b) for a, b in zip(observed, other, strict=True)]
    one, two = run(*observed), run(*mixed)
    for a, b in zip(one[1:], two[1:], strict=True):
      np.testing.assert_array_equal(a[:, : t + 1], b[:, : t + 1])
    if name not in ('never', 'duet_abort') and t < 59:  # DUET's reads nothing but the number of tokens
      assert np.any(one[3][:, t + 1 :] != two[3][:, t + 1 :])
    wanted = state.replace(account=one[0].adaptive.account)
    jax.tree.map(np.testing.assert_array_equal, one[0].adaptive, wanted)  # frozen during a rollout


@pytest.mark.parametrize('name', ALL)
def test_a_disabled_rule_never_stops(name):
  rule = stops.REGISTRY[name](**SMALL.get(name, {}))
  regret, values, noise = rows(seed=5, count=50)
  far = (
    0 if name in (*HEADED, *SMALL, *PROBING) else 1e6
  )  # a forecast of such rows would be anything, and they would be confident
  low = name not in (*JUDGING, 'duet_abort')  # these stop rows by a high draw
  draws = noise if name in ('duet_settled', 'candidate_answer', *PROBING) else noise * 1e-6 if low else 1 - noise * 1e-6
  observed = (regret + far, values - far, draws)
  beta = {'deepconf': -5.0, 'latent_trajectory': -0.9, **dict.fromkeys(JUDGING, 0.0)}.get(name, 0.5)
  stopped = lambda enabled: np.asarray(rollout(rule, adaptive(beta=beta, enabled=enabled), *observed)[2])
  assert not stopped(False).any()
  assert stopped(True).any() == (name not in ALONE)


def test_outside_of_a_training_a_rule_acts_at_once():
  """`rule.init` waits for a training to enable the rule; `stops.adaptive` says what it is to do."""
  rule = stops.espo(beta_0=0.5)
  regret = np.full((3, 10), 3.0, np.float32)
  stopped = lambda state: np.asarray(rollout(rule, state, regret, np.zeros_like(regret), np.zeros_like(regret))[2]).any()
  assert not stopped(rule.init(1).adaptive)
  assert stopped(stops.adaptive(rule, mu=1.0, var=4.0))
  assert not stopped(stops.adaptive(rule, mu=3.0, var=4.0))  # nothing above its mean
  assert not stopped(stops.adaptive(rule, mu=1.0, var=4.0, enabled=False))
  measured = stops.adaptive(rule, mu=regret.mean(dtype=np.float64), var=jnp.float32(2.0))
  assert (float(measured.mu), float(measured.var), float(measured.beta)) == (3.0, 2.0, 0.5)


def test_a_controlled_rule_has_the_options_of_both():
  """By name and in order, so that configs and lists of options read as if they were written out."""
  own = {'smoothing': 0.9, 'clip': 5.0, 'delta': 1e-8, 'epsilon': 0.2}
  control = {'beta_0': 7.0, 'beta_min': 0.0, 'beta_max': 100.0, 'eta': 0.1, 'target_rate': 0.25, 'momentum': 0.99}
  assert list(registry.defaults(stops.espo).items()) == list((own | control).items())
  assert registry.defaults(stops.value_only) == control | {'beta_0': -0.2, 'beta_min': -1.0, 'beta_max': 1.0}
  assert registry.defaults(stops.random_stop) == control | {'beta_0': 5.0}
  for name in (*own, *control):
    assert f'\n  {name}: ' in stops.espo.__doc__
  with pytest.raises(TypeError, match="got an unexpected keyword argument 'smoothnig'"):
    stops.espo(smoothnig=0.5)
  with pytest.raises(TypeError, match='beta_0'):
    stops.controlled(eta=0.2)


@given(
  mu=st.floats(-50, 50, width=32),
  var=st.floats(0, 100, width=32),
  smoothing=st.floats(0, 0.999),
  clip=st.floats(0.1, 10),
  regret=st.lists(st.lists(st.floats(0, 1e6, width=32), min_size=8, max_size=8), min_size=1, max_size=12),
)
@settings(max_examples=30, deadline=None)
@pytest.mark.parametrize('name', ['espo', 'regret_only', 'risk_control'])
def test_z_stays_within_the_clip(name, mu, var, smoothing, clip, regret):
  rule = stops.REGISTRY[name](smoothing=smoothing, clip=clip)
  state = rule.init(8, adaptive(mu=mu, var=var))
  for row in regret:
    state, _, z = rule.update(state, Observation(jnp.asarray(row, jnp.float32), jnp.zeros(8), jnp.zeros(8)))
    assert (np.abs(z) <= clip * (1 + rounding.gamma(4 * len(regret)))).all()  # operations, row after row


# ------------------------------------------------------------------------------------------------- moments and controller


@pytest.mark.parametrize('name', ALL)
@pytest.mark.parametrize('momentum', [0.99, 0.5])
def test_moments_over_batches(precision, name, momentum):
  rule = stops.REGISTRY[name](momentum=momentum)
  state = rule.init(4).adaptive
  assert int(state.batches) == 0
  mu = var = None
  squares = 0.0
  for batch in range(4):
    rng = np.random.default_rng([7, batch])
    regret = rng.exponential(1.0 + batch, (30, 20)).astype(precision)
    mask = np.arange(20)[None] < rng.integers(1, 21, 30)[:, None]
    real = regret[mask].astype(np.float64)
    if batch == 0:
      mu, var = real.mean(), real.var()
    else:
      mu, var = momentum * mu + (1 - momentum) * real.mean(), momentum * var + (1 - momentum) * real.var()
    hidden = jnp.asarray(np.where(mask, regret, np.nan))  # what the mask hides may be anything
    state = rule.adapt(state, hidden, jnp.asarray(mask), jnp.zeros(30, bool), hindsight(rng, 30, 20, precision))
    squares = max(squares, (real**2).mean())
    rounding.assert_close(state.mu, mu, roundings=30 * 20 + 8)  # a sum of a batch's tokens
    rounding.assert_close(state.var, var, roundings=2 * 30 * 20 + 8, size=squares)  # two, one after the other
    assert int(state.batches) == batch + 1


@pytest.mark.parametrize('name', STEERED)
def test_controller_moves_beta_and_keeps_its_bounds(precision, name):
  low, high, eta, target = -0.15, 0.4, 0.5, 0.25
  rule = stops.REGISTRY[name](beta_0=0.2, beta_min=low, beta_max=high, eta=eta, target_rate=target)
  state = rule.init(8).adaptive.replace(enabled=jnp.asarray(True))
  regret, mask = jnp.ones((8, 3)), jnp.ones((8, 3), bool)
  beta, seen = 0.2, []
  for count in (8, 8, 1, 0, 0, 0, 0, 0, 2, 8):
    state = rule.adapt(state, regret, mask, jnp.arange(8) < count)
    beta = min(max(beta + eta * (count / 8 - target), low), high)
    seen.append(beta)
    rounding.assert_close(state.beta, beta, roundings=4 * len(seen), size=1.0)
  assert low in seen and high in seen


def test_published_constants_of_the_controller(precision):
  """beta_0 = 7, eta = 0.1, tau = 0.25: beta falls by at most 0.025 and rises by at most 0.075 a batch."""
  rule = stops.espo()
  state = rule.init(8).adaptive
  assert float(state.beta) == 7.0 and not state.enabled
  state = state.replace(enabled=jnp.asarray(True))
  for count, wanted in ((0, 6.975), (8, 7.075), (2, 7.0)):
    moved = rule.adapt(state, jnp.ones((8, 3)), jnp.ones((8, 3), bool), jnp.arange(8) < count)
    rounding.assert_close(moved.beta, wanted, roundings=5)


@pytest.mark.parametrize('name', ALL)
def test_beta_waits_until_the_rule_is_enabled(name):
  rule = stops.REGISTRY[name]()
  before = rule.init(8).adaptive
  seen = hindsight(np.random.default_rng(0), 8, 3)
  after = rule.adapt(before, jnp.full((8, 3), 2.5), jnp.ones((8, 3), bool), jnp.ones(8, bool), seen)
  assert after.beta == before.beta
  assert float(after.mu) == 2.5 and float(before.mu) == 0.0  # while the moments move


@pytest.mark.parametrize(
  ('name', 'start', 'target'),
  [
    ('espo', 7.0, 0.25),
    ('espo', 0.5, 0.1),
    ('regret_only', 3.0, 0.25),
    ('value_only', 0.9, 0.25),
    ('random', 1.0, 0.25),
    ('mean_logprob', 1.0, 0.25),
  ],
)
def test_closed_loop_reaches_the_target_rate(name, start, target):
  """A stationary regret process under the rule and its controller, batch after batch."""
  rule = stops.REGISTRY[name](beta_0=start, target_rate=target)
  count, horizon, batches = 64, 40, 500

  def batch(state: Adaptive, key):
    draw, zero, level, wobble, uniform = jax.random.split(key, 5)
    shape = (count, horizon)
    regret = jax.random.exponential(draw, shape) * (jax.random.uniform(zero, shape) < 0.4).astype(jnp.float32)
    values = 0.4 + 0.4 * jax.random.normal(level, (count, 1)) + 0.1 * jax.random.normal(wobble, shape)
    _, _, stop, _ = rollout(rule, state, regret, values, jax.random.uniform(uniform, shape))
    before = jnp.cumsum(stop.astype(jnp.int32), axis=1) - stop.astype(jnp.int32) == 0  # the triggering token counts
    stopped = stop.any(axis=1)
    return rule.adapt(state, regret, before, stopped), stopped.astype(jnp.float32).mean()

  state = rule.init(1).adaptive.replace(enabled=jnp.asarray(True))
  state, rates = jax.jit(lambda: jax.lax.scan(batch, state, jax.random.split(jax.random.key(0), batches)))()
  assert abs(float(rates[:10].mean()) - target) > 0.08  # it starts off the target
  noise = np.sqrt(target * (1 - target) / (count * 200))
  assert abs(float(rates[-200:].mean()) - target) < 4 * noise
  assert int(state.batches) == batches


def test_risk_control_takes_the_lowest_threshold_that_loses_few_right_answers(precision):
  low, high, memory, budget = 0.05, 5.0, 0.7, 0.25
  rule = stops.risk_control(beta_0=2.0, beta_min=low, beta_max=high, memory=memory, budget=budget)
  levels = np.geomspace(low, high, 64).astype(precision).astype(np.float64)
  state = rule.init(1).adaptive.replace(enabled=jnp.asarray(True))
  nobody = (jnp.zeros((40, 12)), jnp.ones((40, 12), bool), jnp.zeros(40, bool))
  lost, right, chosen = np.zeros(64), 0.0, []
  for batch in range(6):
    seen = hindsight(np.random.default_rng([8, batch]), 40, 12, precision)
    if batch == 0:
      seen = seen._replace(correct=jnp.zeros(40))
    state = jax.jit(rule.adapt)(state, *nobody, seen)
    z, length, correct, weight = (np.asarray(x, np.float64) for x in seen[:4])
    lost, right = memory * lost, memory * right
    for n in range(40):
      full = int(length[n])
      stoppable = range(full if full == 12 else full - 1)
      right += weight[n] * correct[n]
      lost += weight[n] * correct[n] * np.any([z[n, t] > levels for t in stoppable] or [0 * levels], axis=0)
    within = [k for k in range(64) if (lost[k] + 1) / (right + 1) <= budget]
    assert state.beta == (levels[within[0]] if within else 2.0)
    rounding.assert_close(state.account, [*lost, right], roundings=40 + 3 * 6)  # sums of a batch's rows, batch after batch
    chosen.append(float(state.beta))
    assert bool(within) == (batch > 0)  # without right answers nothing is known
  assert len(set(chosen[1:])) > 1 and low < min(chosen[1:])
  assert (
    rule.adapt(state.replace(enabled=jnp.asarray(False)), *nobody, hindsight(np.random.default_rng(9), 40, 12, precision)).beta
    == state.beta
  )

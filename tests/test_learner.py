"""Scoring, updates, checkpoints and whole steps: against plain numpy, against each other, on one device and on eight."""

import functools

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from rounding import assert_within, gamma, of_decoder, of_program, precision
from small import VOCAB, actor_critic, forward
from tiny import first_params, named, tiny_experiment

from espo_jax import learner, parallel
from espo_jax.experiment import Experiment, make_rule
from espo_jax.learner import Checkpoints, init_state, make_optimizer, minibatches, restore, score
from espo_jax.learner.checkpoint import load
from espo_jax.learner.optimizer import guarded_step
from espo_jax.model import apply
from espo_jax.stages import rl
from espo_jax.stops import never
from espo_jax.types import Reward, StopReason


def relative_gap(one, two) -> float:
  """The norm of the difference of two trees over that of the first."""
  difference = jax.tree.map(lambda a, b: np.asarray(a, np.float64) - np.asarray(b, np.float64), one, two)
  norm = lambda tree: np.sqrt(sum((np.asarray(x, np.float64) ** 2).sum() for x in jax.tree.leaves(tree)))
  return norm(difference) / norm(one)


# ------------------------------------------------------------------------------------------------------------ minibatches


def test_minibatches_cover_every_row_once_an_epoch():
  order = minibatches(seed=3, step=5, rows=12, epochs=3, count=4)
  assert order.shape == (12, 3) and order.dtype == np.int32
  for epoch in range(3):
    np.testing.assert_array_equal(np.sort(order[4 * epoch : 4 * epoch + 4].reshape(-1)), np.arange(12))


def test_minibatches_depend_on_seed_step_and_epoch_alone():
  order = minibatches(3, 5, 24, 2, 4)
  np.testing.assert_array_equal(minibatches(3, 5, 24, 2, 4), order)
  np.testing.assert_array_equal(minibatches(3, 5, 24, 1, 4), order[:4])  # not on how many epochs follow
  np.testing.assert_array_equal(minibatches(3, 5, 24, 2, 3).reshape(-1), order.reshape(-1))  # nor on where they are cut
  different = [minibatches(*key, 24, 1, 1)[0].tobytes() for key in ((3, 5), (4, 5), (3, 6))] + [order[4:].tobytes()]
  assert len(set(different)) == 4


# ---------------------------------------------------------------------------------------------------------------- scoring

LENGTHS = np.array([4, 1, 3], np.int32)


def responses():
  rng = np.random.default_rng(0)
  prompts = np.where(np.arange(4) >= 4 - LENGTHS[:, None], rng.integers(2, VOCAB, (3, 4)), 0).astype(np.int32)
  return prompts, rng.integers(0, VOCAB, (3, 10)).astype(np.int32)


def log_softmax(logits):
  return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def entropy_of(logits):
  return -(np.exp(log_softmax(logits)) * log_softmax(logits)).sum(-1)


@pytest.mark.parametrize(('separate_critic', 'precision'), [(False, 'float64'), (True, 'float32')], indirect=['precision'])
def test_score_is_the_softmax_of_an_unpadded_pass(separate_critic, precision):
  model, params = actor_critic(1, separate_critic=separate_critic)
  prompts, tokens = responses()
  other = actor_critic(4, separate_critic=separate_critic)[1]
  names = ('logprobs', 'entropy', 'opening_logprobs', 'reference_kl', 'entropy_slope', 'values', 'final_values')

  @jax.jit
  def scored(params, other):
    found = score(model, params, *map(jnp.asarray, (prompts, LENGTHS, tokens)), temperature=0.7, chunk=10_000, against=other)
    return {name: getattr(found, name) for name in names}

  got = scored(params, other)
  limits = of_program(scored, params, other, roundings=of_decoder(model.config, 14))
  for n, length in enumerate(LENGTHS):
    row = jnp.asarray(np.concatenate([prompts[n, 4 - length :], tokens[n]])[None])
    logits, reference = (
      np.asarray(jax.jit(apply, static_argnums=0)(model.config, p['policy'], row)[0, length - 1 :], np.float64) / 0.7
      for p in (params, other)
    )
    logprobs = log_softmax(logits)
    divergence = (np.exp(logprobs) * (logprobs - log_softmax(reference))).sum(-1)
    uphill = np.eye(VOCAB)[tokens[n]] - np.exp(logprobs[:-1])  # where the gradient of the token's log-probability points
    rise = -(np.exp(logprobs) * (logprobs + entropy_of(logits)[:, None]))[:-1]  # the entropy's gradient by the logits
    values = forward(model, params, row)[1][0, length - 1 :]
    wanted = {
      'logprobs': logprobs[np.arange(10), tokens[n]],
      'entropy': entropy_of(logits)[:-1],
      'opening_logprobs': logprobs[0],
      'reference_kl': divergence[:-1],
      'entropy_slope': (rise * uphill).sum(-1),
      'values': values[:-1],
      'final_values': values[-1],
    }
    assert_within({name: x[n] for name, x in got.items()}, wanted, limits)


def test_chunked_scoring_is_the_unchunked(precision):
  (model, params), (_, other) = actor_critic(2), actor_critic(4)
  prompts, tokens = map(jnp.asarray, responses())
  lengths = jnp.asarray(LENGTHS)
  weights = jax.tree.map(
    lambda x: np.random.default_rng(x.size).normal(size=x.shape).astype(precision),
    jax.eval_shape(lambda p: score(model, p, prompts, lengths, tokens, temperature=1.0, chunk=10_000, against=p), params),
  )

  def weighed(chunk, params, weights, other):
    scored = score(model, params, prompts, lengths, tokens, temperature=1.0, chunk=chunk, against=other)
    return sum((w * x).sum() for w, x in zip(jax.tree.leaves(weights), jax.tree.leaves(scored), strict=True)), scored

  run = jax.jit(jax.value_and_grad(weighed, argnums=1, has_aux=True), static_argnums=0)
  whole = run(30, params, weights, other)
  roundings = 3 * of_decoder(model.config, 14) + 30  # there and back, and a sum over thirty tokens
  limits = of_program(functools.partial(run, 30), params, weights, other, roundings=roundings)
  for chunk in (12, 17, 1):  # of three rows: four columns, of which 14 is no multiple; five; one, which is the least
    assert_within(run(chunk, params, weights, other), whole, limits)


# ----------------------------------------------------------------------------------------------------- optimizer and guard


def adamw_by_hand(x, gradients, rates, *, b1, b2, decay):
  """Loshchilov and Hutter 2019, algorithm 2."""
  m, v = np.zeros_like(x), np.zeros_like(x)
  for t, (g, rate) in enumerate(zip(gradients, rates, strict=True), 1):
    m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
    x = x - rate * (m / (1 - b1**t) / (np.sqrt(v / (1 - b2**t)) + 1e-8) + decay * x)
  return x


@pytest.mark.parametrize(
  'changes', [{'model__scan_layers': True}, {'model__num_layers': 4, 'exits__every': 1, 'exits__kind': 'mlp'}]
)
def test_stacked_scales_and_biases_have_no_weight_decay_either(changes):
  params = first_params(tiny_experiment(named(**changes)), 0)
  rates = {'exit_learning_rate': 0.1, 'weight_decay': 0.5, 'warmup_steps': 0, 'max_grad_norm': 1.0, 'b1': 0.9, 'b2': 0.99}
  optimizer = make_optimizer(0.1, 0.1, **rates)
  ones = jax.tree.map(jnp.ones_like, params)  # so that a decay shows whatever the values are
  updates, _ = optimizer.update(jax.tree.map(jnp.zeros_like, params), optimizer.init(params), ones)
  for path, update in jax.tree_util.tree_leaves_with_path(updates):
    name = path[-1].key
    assert bool((update != 0).any()) == (name != 'scale' and 'bias' not in name), path


def test_optimizer_is_adamw_with_two_rates():
  rng = np.random.default_rng(0)
  shapes = {
    'policy': {'kernel': (3, 4), 'scale': (4,), 'value': {'kernel': (4, 1), 'bias': (1,)}},
    'critic': {'kernel': (3, 4), 'scale': (4,)},
  }
  draw = lambda scale: jax.tree.map(lambda s: scale * rng.normal(size=s), shapes, is_leaf=lambda s: isinstance(s, tuple))
  start, gradients = draw(1.0), [draw(scale) for scale in (5.0, 0.05, 2.0, 0.1, 1.0, 0.3, 1.0)]
  optimizer = make_optimizer(1e-2, 3e-2, warmup_steps=2, decay_steps=4, weight_decay=0.1, max_grad_norm=1.0, b1=0.9, b2=0.95)
  rise_and_fall = np.array([1 / 3, 2 / 3, 1, 3 / 4, 1 / 2, 1 / 4, 0])

  @jax.jit
  def step(params, state, g):
    updates, state = optimizer.update(g, state, params)
    return optax.apply_updates(params, updates), state

  params = jax.tree.map(jnp.float32, start)
  state = optimizer.init(params)
  for g in gradients:
    params, state = step(params, state, jax.tree.map(jnp.float32, g))
  norms = [np.sqrt(sum((x**2).sum() for x in jax.tree.leaves(g))) for g in gradients]
  assert min(norms) < 1 < max(norms)
  clipped = [jax.tree.map(lambda x, norm=norm: x / max(norm, 1.0), g) for g, norm in zip(gradients, norms, strict=True)]

  def by_hand(path, x, *g):
    critic = 'critic' in str(path) or 'value' in str(path)
    rates = (3e-2 if critic else 1e-2) * rise_and_fall
    return adamw_by_hand(x, g, rates, b1=0.9, b2=0.95, decay=0.1 if x.ndim > 1 else 0.0)

  wanted = jax.tree_util.tree_map_with_path(by_hand, start, *clipped)
  # In each of seven steps a norm over 32 gradients, and twenty operations on sums of one sign; the parameters are below 4.
  limit = 4 * gamma(7 * (32 + 20))
  assert_within(params, wanted, jax.tree.map(lambda _: limit, wanted))


def test_an_array_without_a_gradient_rests_with_its_moments_though_momentum_and_decay_would_move_it():
  params = {'policy': {'a': {'kernel': jnp.ones((2, 2))}, 'b': {'kernel': jnp.ones((2, 2))}}}
  optimizer = optax.adamw(0.1, weight_decay=0.1)
  state = init_state(params, optimizer, never())
  one, none = jnp.ones((2, 2)), jnp.zeros((2, 2))
  after = []
  for a, b in ((one, one), (one, none), (one, none)):
    grads = {'policy': {'a': {'kernel': a}, 'b': {'kernel': b}}}
    state, _ = guarded_step(state, optimizer, jnp.float32(1.0), grads, rests=True)
    after.append((state.params['policy'], state.opt_state[0].mu['policy'], state.opt_state[0].nu['policy']))
  for first, last in zip(after[0], after[-1], strict=True):
    np.testing.assert_array_equal(first['b']['kernel'], last['b']['kernel'])
    assert (first['a']['kernel'] != last['a']['kernel']).all()
  assert (after[0][0]['b']['kernel'] != 1).all()


NAN, INF = float('nan'), float('inf')


@pytest.mark.parametrize(('loss', 'bad'), [(NAN, 1.0), (1.0, NAN), (1.0, INF), (INF, 1.0)])
def test_guarded_step_skips_and_counts(loss, bad):
  params = {'a': jnp.arange(3.0), 'b': jnp.ones((2, 2))}
  optimizer = optax.adam(0.1)
  good = jax.tree.map(lambda x: 0.5 + x, params)
  poisoned = good | {'b': good['b'].at[0, 1].set(bad)}
  step = jax.jit(lambda state, loss, grads: guarded_step(state, optimizer, loss, grads))
  state, _ = step(init_state(params, optimizer, never()), jnp.float32(1.0), good)

  updates, opt_state = optimizer.update(good, optimizer.init(params), params)
  wanted = (optax.apply_updates(params, updates), opt_state)
  got = (state.params, state.opt_state)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=gamma(20)), got, wanted)  # twenty operations, none cancels

  counts = []
  for is_bad in (True, True, False, True):
    before = state
    state, metrics = step(state, jnp.float32(loss if is_bad else 1.0), poisoned if is_bad else good)
    counts.append((int(state.bad_steps), int(state.skipped)))
    kept = [np.array_equal(a, b) for a, b in zip(jax.tree.leaves(before.params), jax.tree.leaves(state.params), strict=True)]
    assert all(kept) if is_bad else not any(kept)
    if is_bad:
      jax.tree.map(np.testing.assert_array_equal, state.opt_state, before.opt_state)
      assert not np.isfinite(float(metrics['loss/total']) + float(metrics['grad_norm']))
  assert counts == [(1, 1), (2, 2), (0, 2), (1, 3)]


# ------------------------------------------------------------------------------------------------------------ checkpoints


def test_checkpoint_is_the_state_to_the_bit(tmp_path):
  mesh = parallel.make_mesh(2, 2, 2)
  rng = np.random.default_rng(0)
  optimizer = optax.adam(0.1)
  weights = rng.normal(size=(8, 4)).astype(np.float32)
  weights[0, 0], weights[1, 1], weights[2, 2] = NAN, -0.0, 1e-42  # a nan, a signed zero, a subnormal
  params = {
    'sharded': jax.device_put(weights, NamedSharding(mesh, PartitionSpec('fsdp', 'tensor'))),
    'bfloat16': jax.device_put(jnp.asarray(rng.normal(size=5), jnp.bfloat16), parallel.replicated(mesh)),
  }
  state = init_state(params, optimizer, never()).replace(bad_steps=jnp.int32(3))
  like = jax.tree.map(jnp.zeros_like, state)
  assert restore(tmp_path / 'c', like) is None
  for step, done in ((4, False), (6, True)):
    with Checkpoints(tmp_path / 'c') as checkpoints:
      checkpoints.save(step, state, done=done)
    loaded, *which = restore(tmp_path / 'c', like)
    assert which == [step, done]
  assert jax.tree.structure(loaded) == jax.tree.structure(state)
  for a, b in zip(jax.tree.leaves(loaded), jax.tree.leaves(state), strict=True):
    assert a.dtype == b.dtype and a.sharding.is_equivalent_to(b.sharding, a.ndim)
    assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def test_the_last_and_the_best_checkpoints_are_kept(tmp_path):
  steps_kept = lambda: sorted(int(p.name) for p in (tmp_path / 'c').iterdir() if p.name.isdigit())
  with Checkpoints(tmp_path / 'c', keep_last=2, keep_best=1) as checkpoints:
    for step, accuracy in enumerate((0.1, 0.7, 0.2, None, 0.3, 0.6), 1):
      checkpoints.save(step, {'x': jnp.float32(step)}, done=False, accuracy=accuracy)
  assert steps_kept() == [2, 5, 6]
  assert float(load(tmp_path / 'c' / '2', {'x': jnp.float32(0)})['x']) == 2.0
  assert float(restore(tmp_path / 'c', {'x': jnp.float32(0)}).state['x']) == 6.0


# ------------------------------------------------------------------------------------------------------------ whole steps


def ppo_with_all_terms(c):
  c.seed = 1  # some are right and some wrong
  c.advantage.update(gamma=0.98, lam=0.9)
  c.objective.update(name='ppo + entropy + kl_k3', entropy_coef=0.01, kl_coef=0.1)


COMPILED = []  # a mark for every program compiled
jax.monitoring.register_event_duration_secs_listener(
  lambda event, *_, **__: COMPILED.append(event) if event == '/jax/core/compile/backend_compile_duration' else None
)


def train(exp: Experiment, rule, count: int):
  """`count` steps with the rule acting from the first; the state, the first parameters and the metrics."""
  state = init_state(first_params(exp, 0), rl.reinforcement_learner(exp, rule).optimizer, rule)
  state = rl.fork(state.replace(adaptive=state.adaptive.replace(mu=jnp.float32(1.1))), rule)
  state, before = exp.on_mesh(state), first_params(exp, 0)
  step = rl.reinforcement_step(exp, rule, first_params(exp, 1))
  metrics = []
  with jax.transfer_guard('disallow'):  # as the stage's loop has it
    for i in range(count):
      COMPILED.clear()
      state, part = step(state, i + 1)
      metrics.append({name: float(value) for name, value in jax.device_get(part).items()})
      if precision() == 'float32':  # as users run it
        assert (len(COMPILED) > 0) == (i == 0)  # the first step compiles what all need
  return state, before, metrics


# Through an update of a thousand operations, say; where a gradient is 0 Adam divides what rounding leaves of it by its epsilon.
AN_UPDATE = gamma(1000, np.float64) / 1e-8


def test_espo_that_never_fires_is_ppo(in_float64):
  exp = tiny_experiment(ppo_with_all_terms)
  ppo, before, ppo_metrics = train(exp, make_rule(exp.config, 'never'), 3)
  silent, _, metrics = train(exp, make_rule(exp.config, 'espo', beta_0=1e6, beta_max=1e6), 3)
  for one, two in zip(ppo_metrics, metrics, strict=True):
    assert two['stop/enabled'] == 1 and two['stop/rate'] == 0
    assert 0 < two['accuracy'] < 1 and two['loss/kl_k3'] > 0
    assert two['rollout/checksum'] == one['rollout/checksum']
    assert two['sampler_gap/max'] < 1e-4
  assert relative_gap(ppo.params, before) > 1e-2
  assert relative_gap(ppo.params, silent.params) <= 3 * AN_UPDATE
  assert metrics[-1]['skipped_steps'] == 0


def test_a_step_on_eight_devices_is_the_step_on_one(in_float64):
  results = {}
  for name, mesh in (('one', {}), ('eight', {'data': 2, 'fsdp': 2, 'tensor': 2})):
    exp = tiny_experiment(ppo_with_all_terms, **mesh)
    results[name] = train(exp, make_rule(exp.config, 'espo'), 2)
  one, _, one_metrics = results['one']
  eight, before, metrics = results['eight']
  for a, b in zip(one_metrics, metrics, strict=True):
    assert a.keys() == b.keys()
    assert 0 < a['stop/rate'] < 1 and 0 < a['accuracy'] < 1
    for key in ('rollout/checksum', 'rollout/tokens', 'rollout/shadow_tokens', 'accuracy', 'stop/rate', 'stop/shadow_correct'):
      assert a[key] == b[key], key
    for key in (
      'loss/total',
      'loss/policy',
      'loss/value',
      'loss/entropy',
      'loss/kl_k3',
      'grad_norm',
      'stop/mu',
      'stop/beta',
    ):
      np.testing.assert_allclose(b[key], a[key], rtol=0, atol=2 * AN_UPDATE, err_msg=key)
  assert relative_gap(one.params, before) > 1e-2
  assert relative_gap(one.params, eight.params) < 2 * AN_UPDATE
  for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(eight.params), strict=True):
    assert a.sharding.is_equivalent_to(b.sharding, a.ndim)  # an update leaves the parameters where they lie
  kernel = eight.params['policy']['layer_0']['mlp']['up_proj']['kernel']
  assert kernel.addressable_shards[0].data.shape == (8, 12)  # split over fsdp and tensor


def test_random_parameters_do_not_depend_on_the_mesh():
  """The inverse error function that makes a normal of a uniform is a dozen operations: a polynomial of one sign, a product."""
  one, eight = (
    tiny_experiment(ppo_with_all_terms).init_params(),
    tiny_experiment(ppo_with_all_terms, data=2, fsdp=2, tensor=2).init_params(),
  )
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=gamma(12)), one, eight)


# ------------------------------------------------------------------------------------------------- advantages of a rollout


@pytest.mark.parametrize(('bootstrapped', 'precision'), [(False, 'float32'), (True, 'float64')], indirect=['precision'])
def test_only_a_row_cut_by_the_horizon_bootstraps(bootstrapped, precision):
  """Advantages of a real rollout against the definition: r_fail on the stop and nothing after it, V after the horizon."""
  exp = tiny_experiment(ppo_with_all_terms)
  c = exp.config
  with c.unlocked():
    c.advantage.update(bootstrap_truncated=bootstrapped, whiten=bootstrapped)
    c.objective = ml_collections.ConfigDict({'name': 'ppo'})
    c.stop.fail_reward = -1.5
  rule, params = make_rule(c, 'espo'), first_params(exp, 0)
  adaptive = rule.init(1).adaptive.replace(mu=jnp.float32(1.0), var=jnp.float32(1.0), enabled=jnp.asarray(True))
  problems = exp.problems('train', 0, 8)
  sampler = exp.sampler.plain(samples=2, temperature=0.8, shadow_share=0.5)
  rows = sampler(params, rule, adaptive, exp.prompts(problems), exp.key('rollout', 1))
  reward = np.random.default_rng(0).normal(size=16).astype(precision)
  learns = rl.reinforcement_learner(exp, rule)

  def credited(params, rows, reward):
    batch, _ = learns.prepare(params, None, rows, reward)
    return batch.advantages, batch.returns

  batch = credited(params, rows, Reward(jnp.asarray(reward)))
  # The last value is the decoder's; a recursion over the horizon; a mean and a variance over all tokens.
  roundings = of_decoder(exp.model.config, 30) + 5 * 16 + 3 * 256
  limits = of_program(credited, params, rows, Reward(jnp.asarray(reward)), roundings=roundings)
  rows = jax.device_get(rows)
  assert set(rows.stop_reason) == {StopReason.LENGTH, StopReason.EOS, StopReason.STOPPED} and rows.shadow.any()

  final = jax.jit(functools.partial(learner.score, exp.model, temperature=0.8, chunk=10_000))(
    params, rows.prompt_tokens, rows.prompt_lengths, rows.tokens
  ).final_values
  advantages, returns = np.zeros((16, 16)), np.zeros((16, 16))
  for n in range(16):
    reason, ahead, advantage = rows.stop_reason[n], 0.0, 0.0
    if reason == StopReason.LENGTH and bootstrapped:
      ahead = float(final[n])
    for t in reversed(range(rows.length[n])):
      outcome = -1.5 if reason == StopReason.STOPPED else reward[n]
      delta = (outcome if t == rows.length[n] - 1 else 0.0) + 0.98 * ahead - rows.values[n, t]
      advantage = delta + 0.98 * 0.9 * advantage
      ahead = float(rows.values[n, t])
      advantages[n, t], returns[n, t] = advantage, advantage + ahead
  real = np.arange(16) < rows.length[:, None]
  if bootstrapped:
    advantages = np.where(real, (advantages - advantages[real].mean()) / np.sqrt(advantages[real].var() + 1e-8), 0.0)
  assert_within([np.where(real, x, 0.0) for x in batch], [advantages, returns], list(limits))

"""What exits learn from a frozen model: each lesson in the calibration, its values by numpy, and what it leaves alone."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_calibration import config_of, experiment, sampled_by_teacher
from tiny import first_params

from espo_jax import exits, registry, stops
from espo_jax.configs import ConfigError, validate
from espo_jax.learner import init_state
from espo_jax.learner.calibration import sequences
from espo_jax.model import States
from espo_jax.stages import calibration

HEADS = {  # the networks that each lesson trains
  'jei_gates': {'exits__policy': 'jei_gates', 'exits__kind': 'statistics', 'exits__translator': 'token'},
  'lgvit_distill': {'exits__policy': 'confidence', 'exits__translator': 'local_global'},
  'dynamax_distill': {'exits__policy': 'dynamax', 'exits__kind': 'recurrence', 'exits__first_block': 2},
  'specee': {'exits__policy': 'specee', 'exits__kind': 'candidates'},
}
REACH = (3, 5)  # sequences and tokens of the arrays that lessons get below


def taught(name, **lines):
  return experiment(lesson__name=name, exits__alone=True, exits__width=6, **HEADS[name], **lines)


def state_of(exp, params):
  optimizer = calibration.calibration_optimizer(exp)
  return exp.on_mesh(init_state(jax.tree.map(jnp.copy, params), optimizer, stops.never()))


@functools.cache
def learned(name):
  """The initial parameters, and the state and metrics after each of some steps; the phases of `jei_gates` have two."""
  exp = taught(name, **({'lesson__phase': 2} if name == 'jei_gates' else {}))
  params = first_params(exp, 0)
  state, step, after = state_of(exp, params), calibration.calibration_step(exp, params), []
  for i in range(1, 5):
    state, metrics = step(state, i)
    after.append(jax.device_get((state, metrics)))
  return params, after


@pytest.mark.parametrize('name', exits.LESSONS)
def test_a_lesson_is_a_config_line_that_trains_the_exits_and_leaves_the_model_as_it_is_to_the_bit(name):
  params, after = learned(name)
  for _, metrics in after:
    assert all(np.isfinite(x) for x in metrics.values()) and metrics['grad_norm'] > 0
  same = jax.tree.map(lambda a, b: bool((a == b).all()), params, after[-1][0].params)['policy']
  heads = same.pop('exit_heads')
  assert all(jax.tree.leaves(same))
  untouched = {'lgvit_distill': {'kernel', 'bias'}}.get(name, set())  # its exits are read by confidence
  assert {name for name, kept in heads.items() if kept} == untouched


def changed(before, after):
  """The exits' networks of which something differs in the state: the parameter or a moment."""
  pairs = zip(*map(jax.tree_util.tree_leaves_with_path, (before, after)), strict=True)
  differ = [path for (path, old), (_, new) in pairs if (old != new).any()]
  return {path[-1].key for path in differ if 'exit_heads' in {getattr(entry, 'key', '') for entry in path}}


def test_jei_leaves_the_part_whose_turn_it_is_not_as_it_is_to_the_bit_with_its_moments():
  states = [state for state, _ in learned('jei_gates')[1]]
  classifiers, gates = {'up', 'down'}, {'kernel', 'bias'}
  assert changed(states[0], states[1]) == classifiers
  assert changed(states[1], states[2]) == changed(states[2], states[3]) == gates


@pytest.mark.parametrize('name', exits.LESSONS)
def test_a_lesson_needs_less_memory_than_a_gradient_through_the_model(name):
  exp = taught(name, calibration__patterns=1, calibration__uniform_patterns=0, calibration__whole_patterns=0)
  params, key = first_params(exp, 0), exp.key('calibration', 1)
  rows, lesson = sampled_by_teacher(exp, params), calibration.lesson_learner(exp)
  whole = experiment(**HEADS[name], exits__width=6, calibration__patterns=1, calibration__uniform_patterns=0,
                     calibration__whole_patterns=0)  # fmt: skip
  through = calibration.self_distillation(whole)

  def temporaries(learner, exp, *arrays):
    lowered = type(learner).update.lower(learner, state_of(exp, params), *arrays)
    return lowered.compile().memory_analysis().temp_size_in_bytes

  assert temporaries(lesson, exp, rows, jnp.int32(1)) < 0.8 * temporaries(through, whole, params, rows, key)


def seen_by(exp, params):
  learner, rows = calibration.lesson_learner(exp), sampled_by_teacher(exp, params)
  seqs = sequences(rows)
  whole, streams = exp.model.entering(params, seqs.tokens, seqs.positions, seqs.segments)
  return learner.seen(params, rows, whole, streams), seqs, whole, exp.model.leaving(params, streams, seqs.positions)


def softmax(logits):
  weights = np.exp(logits - logits.max(-1, keepdims=True))
  return weights / weights.sum(-1, keepdims=True)


def test_lessons_see_the_losses_divergences_and_ranks_of_the_exits():
  exp = taught('dynamax_distill', exits__translator='token')
  params = first_params(exp, 0)
  seen, seqs, whole, hidden = seen_by(exp, params)
  temperature = exp.config.rollout.temperature

  def logits(states):
    return np.asarray(exp.model.logits(params, States(states, states)), np.float64) / temperature

  counts = np.asarray(seqs.counts)
  exit_, own = logits(hidden[0])[counts], logits(whole)[counts]
  chosen = np.roll(np.asarray(seqs.tokens), -1, axis=1)[counts][:, None]
  real = np.arange(exp.config.rollout.horizon) < counts.sum(1, keepdims=True)  # of the responses, token by token
  for found, of in zip(seen['losses'](), (exit_, own), strict=True):
    wanted = -np.log(np.take_along_axis(softmax(of), chosen, axis=-1))[:, 0]
    np.testing.assert_allclose(np.asarray(found)[real], wanted, rtol=1e-4, atol=1e-5)
  for soft in (1.0, 2.0):
    p, q = softmax(own / soft), softmax(exit_ / soft)
    np.testing.assert_allclose(
      np.asarray(seen['divergence']()(soft)[0])[real], (p * np.log(p / q)).sum(-1), rtol=1e-3, atol=1e-5
    )
  best = np.take_along_axis(own, exit_.argmax(-1)[..., None], axis=-1)
  np.testing.assert_array_equal(np.asarray(seen['ranks']()[0])[real], (own > best).sum(-1))
  np.testing.assert_allclose(seen['mean']()(jnp.asarray(real, jnp.float32)), 1.0)
  gates = exp.model.gates(params, exp.model.entering(params, seqs.tokens, seqs.positions, seqs.segments)[1], seqs.positions)
  np.testing.assert_array_equal(np.asarray(seen['gates']())[:, real], np.asarray(gates)[:, counts])
  np.testing.assert_allclose(seen['depths'](), [2 / 3, 1.0], rtol=1e-6)


@pytest.mark.parametrize('name', ['linear', 'jei_gates', 'specee'])
def test_networks_without_memories_learn_from_the_states_of_responses_alone(name):
  """What is not a number in the columns of prompts would be none in a gradient that has a part there, even one of 0."""
  heads = {'exits__policy': 'threshold', 'exits__kind': 'linear'} if name == 'linear' else HEADS[name]
  exp = experiment(lesson__name='dynamax_distill', exits__alone=True, exits__width=6, **heads | {'exits__translator': 'token'})
  params, learner = first_params(exp, 0), calibration.lesson_learner(exp)
  rows = sampled_by_teacher(exp, params)
  seqs = sequences(rows)
  whole, streams = exp.model.entering(params, seqs.tokens, seqs.positions, seqs.segments)
  prompts = jnp.arange(streams.shape[2]) < rows.prompt_lengths[:, None] - 1

  def loss(heads, streams):
    learned = params | {'policy': params['policy'] | {'exit_heads': heads}}
    seen = learner.seen(learned, rows, whole, streams)
    return seen['mean']()((seen['gates']() + seen['divergence']()(1.0)).sum(0))

  grads = jax.grad(loss)
  heads = params['policy']['exit_heads']
  found = grads(heads, jnp.where(prompts[..., None], jnp.nan, streams))
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(found)) and (found['bias'] != 0).any()


def test_the_last_exit_of_the_same_form_is_that_of_its_half():
  exp = taught('lgvit_distill', model__num_layers=6)
  np.testing.assert_array_equal(seen_by(exp, first_params(exp, 0))[0]['alike'](), [2, 2, 2, 4, 4])


# ---------------------------------------------------------------------------------------------------------------- their values


def mean(x):
  return x.mean()


def random(*lead, seed=0):
  return jnp.asarray(np.random.default_rng(seed).gamma(2.0, size=(*lead, *REACH)), jnp.float32)


def jei(gates, losses, step=1, **options):
  depths = jnp.arange(1, len(losses) + 1) / len(losses)
  return exits.jei_lesson(gates, losses, depths, mean, jnp.int32(step), **options)


def test_jei_gates_learn_the_cheapest_exit():
  """With a great cost this is the first exit, and without one that of the least loss: the gradient says which gates rise."""
  losses, gates = random(4), jnp.zeros((3, *REACH))

  def slope(kappa):
    return np.asarray(jax.grad(lambda g: jei(g, losses, 201, kappa=kappa)[0])(gates))

  assert (slope(1e6) < 0).all()
  fired = np.asarray(losses).argmin(0) <= np.arange(3)[:, None, None]
  np.testing.assert_array_equal(slope(0.0) < 0, fired)
  total = np.where(fired, slope(0.0), 0.0).sum((1, 2)) + np.where(~fired, slope(0.0), 0.0).sum((1, 2))
  np.testing.assert_allclose(total, 0.0, atol=1e-6)  # both targets of a gate weigh the same


def test_jei_classifiers_and_gates_learn_in_turn_and_never_through_each_other():
  losses, gates = random(4), jnp.asarray(np.random.default_rng(1).normal(size=(3, *REACH)), jnp.float32)
  for step, classifies in ((1, True), (200, True), (201, False), (400, False), (401, True)):
    of_gates, of_losses = jax.grad(lambda g, x, at=step: jei(g, x, at)[0], argnums=(0, 1))(gates, losses)
    assert bool(np.any(of_losses)) == classifies and bool(np.any(of_gates)) != classifies


def test_jei_classifiers_weigh_their_losses_by_where_the_gates_exit_and_keep_the_sum():
  losses, gates = random(4), jnp.asarray(np.random.default_rng(1).normal(size=(3, *REACH)), jnp.float32)
  value = jei(gates, losses)[0]
  np.testing.assert_allclose(value, np.asarray(losses, np.float64).sum(0).mean(), rtol=1e-5)
  slope = np.asarray(jax.grad(lambda x: jei(gates, x)[0])(losses), np.float64)
  g = 1 / (1 + np.exp(-np.asarray(gates, np.float64)))
  p = np.clip(np.minimum(g, 1 - (np.cumsum(g, 0) - g)), 0, 1)
  p = np.concatenate([p, 1 - p.sum(0, keepdims=True)])
  wanted = p * np.asarray(losses, np.float64).sum(0) / (p * np.asarray(losses, np.float64)).sum(0) / p[0].size
  np.testing.assert_allclose(slope, wanted, rtol=1e-3, atol=1e-6)


def test_lgvit_is_its_published_sum():
  losses, hidden, whole = random(3), random(2)[..., None] * jnp.ones(4), random()[..., None] * jnp.ones(4)
  apart = {2.0: random(2, seed=3)}
  value, parts = exits.lgvit_distill(losses, apart.__getitem__, hidden, whole, jnp.array([1, 1]), mean)
  own, h, w = (np.asarray(x, np.float64) for x in (losses, hidden, whole))
  same = np.square(h[0] - h[1]).mean(-1).mean()
  other = np.square(h - w).mean(-1).sum(0).mean()
  wanted = own[:2].sum(0).mean() + 0.3 * 4 * np.asarray(apart[2.0], np.float64).sum(0).mean() + 0.01 * same + 0.01 * other
  np.testing.assert_allclose(value, wanted, rtol=1e-5)
  assert parts['loss/homogeneous'] == pytest.approx(same, rel=1e-5)


def divergence_of(logits, told, temperature):
  q, p = (jax.nn.log_softmax(x / temperature) for x in (logits, told))
  return (jnp.exp(p) * (p - q)).sum(-1)


def test_the_square_of_the_temperature_keeps_the_gradient_of_a_divergence():
  """It is that of half the squared distance of the centred logits over their number, by finite differences."""
  rng = np.random.default_rng(0)
  told, said = (jnp.asarray(rng.normal(0, 0.1, (1, *REACH, 6)), jnp.float32) for _ in range(2))
  direction = jnp.asarray(rng.normal(size=said.shape), jnp.float32)
  zero = jnp.zeros((2, *REACH))

  def loss(said, temperature):
    apart = functools.partial(divergence_of, said, told)
    states = jnp.zeros((1, *REACH, 1))
    return exits.lgvit_distill(zero, apart, states, states[0], jnp.array([0]), mean, temperature=temperature, soft=1.0)[0]

  def slope(temperature):
    return float((loss(said + 0.05 * direction, temperature) - loss(said - 0.05 * direction, temperature)) / 0.1)

  centred = np.asarray(said - told, np.float64)
  centred -= centred.mean(-1, keepdims=True)
  wanted = (centred * np.asarray(direction, np.float64)).sum(-1).mean() / 6
  for temperature in (2.0, 8.0):
    assert slope(temperature) == pytest.approx(wanted, rel=0.15)
  assert float(loss(told, 2.0)) == pytest.approx(0.0, abs=1e-7)


@pytest.mark.parametrize(('rank', 'among', 'right'), [(0, 1, True), (1, 1, False), (4, 5, True), (5, 5, False)])
def test_dynamax_calls_an_exit_right_whose_token_is_among_the_models_best(rank, among, right):
  gates, ranks = jnp.zeros((2, *REACH)), jnp.full((2, *REACH), rank)

  def loss(gates):
    return exits.dynamax_distill(gates, ranks, lambda temperature: jnp.zeros((2, *REACH)), mean, among=among)[0]

  slope = np.asarray(jax.grad(loss)(gates), np.float64) * ranks[0].size
  np.testing.assert_allclose(slope, np.array([1.0, 0.5])[:, None, None] * (-0.5 if right else 0.5) * np.ones((2, *REACH)))


def test_what_a_lesson_cannot_train_is_refused():
  def problems(name, **lines):
    with pytest.raises(ConfigError) as raised:
      validate(config_of(lesson__name=name, **lines))
    return '\n'.join(raised.value.problems)

  assert 'fix: exits.alone = True' in problems('dynamax_distill')
  assert "fix: exits.kind = 'statistics'" in problems('jei_gates', exits__alone=True)
  assert "fix: exits.translator = 'local_global'" in problems('lgvit_distill', exits__alone=True)
  assert 'lesson.name' in problems('jei_gate', exits__alone=True)
  assert 'lesson.among' in problems('dynamax_distill', exits__alone=True, lesson__among=-1)
  for lesson, option, value in (
    ('jei_gates', 'phase', '200'),
    ('dynamax_distill', 'among', '5'),
    ('lgvit_distill', 'temperature', '2.0'),
  ):
    zero = type(registry.options(exits.LESSONS[lesson])[option].default)(0)
    wanted = f'lesson.{option} = {zero}: out of range; fix: a number above 0, such as {value}'
    assert wanted in problems(lesson, exits__alone=True, **{f'lesson__{option}': zero}).splitlines()
  assert 'fix: mesh.tensor = 1' in problems('', exits__kind='recurrence', mesh__tensor=2)
  untrained = problems('lgvit_distill', exits__alone=True, exits__translator='token', exits__policy='threshold')
  assert "exits.policy = 'threshold', whose gates it does not train; fix: a policy that reads none" in untrained
  drawn = problems('', exits__kind='statistics')
  assert "fix: exits.policy = 'jei_gates'" in drawn and "fix: lesson.name = 'jei_gates'" in drawn
  unread = problems('', exits__translator='token', exits__policy='skipdecode', exits__level=2.0)
  assert "exits.translator = 'token' with exits.policy = 'skipdecode': no token leaves at an exit" in unread

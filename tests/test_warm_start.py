"""What the warm start may choose: StableMax in place of the softmax, and gradients that do not scale the weights."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from rounding import gamma
from tiny import first_params, named, tiny_experiment

from espo_jax import objectives
from espo_jax.configs import ConfigError, default_config, validate
from espo_jax.experiment import make_rule
from espo_jax.learner import init_state, scoring
from espo_jax.learner.scoring import score
from espo_jax.stages.warm_start import supervised_learner
from espo_jax.types import SupervisedBatch


def stablemax(x: np.ndarray) -> np.ndarray:
  """The log-probabilities by their definition, in float64."""
  x = np.asarray(x, np.float64)
  s = np.where(x >= 0, x + 1, 1 / np.where(x < 0, 1 - x, 1))
  return np.log(s / s.sum(-1, keepdims=True))


def test_stablemax_is_its_definition():
  found = objectives.stablemax_ce(np.array([2.0, 0.0, -1.0]))
  np.testing.assert_allclose(found, [-0.405465, -1.504077, -2.197225], atol=1e-6)
  x = 50 * np.random.default_rng(0).normal(size=(20, 30)).astype(np.float32)
  np.testing.assert_allclose(objectives.stablemax_ce(x), stablemax(x), rtol=4 * gamma(40), atol=4 * gamma(40))


@pytest.mark.parametrize('at', [-3.0, -0.2, 0.0, 0.3, 5.0])
def test_the_gradient_of_stablemax_is_that_of_its_definition(at, in_float64):
  """The two branches of `s` meet at 0 with the slope 1 on both sides."""
  rest = np.array([0.4, -1.3, 2.0])
  found = jax.grad(lambda x: objectives.stablemax_ce(jnp.append(jnp.asarray(rest), x))[-1])(jnp.asarray(at))
  step = 1e-6
  high, low = (stablemax(np.append(rest, at + d))[-1] for d in (step, -step))
  assert float(found) == pytest.approx((high - low) / (2 * step), rel=1e-5)


def test_a_certain_answer_still_has_a_gradient_under_stablemax():
  """In float32 the softmax rounds its probability to 1, so that nothing is left to learn."""
  logits = jnp.array([200.0, 0.0, 0.0], jnp.float32)
  loss = {name: lambda x, f=f: -f(x)[0] for name, f in objectives.LIKELIHOODS.items()}
  assert not np.any(jax.grad(loss['softmax_ce'])(logits))
  assert np.all(jax.grad(loss['stablemax_ce'])(logits) != 0)


def orthogonal(g: np.ndarray, w: np.ndarray) -> np.ndarray:
  v = g - (w.ravel() @ g.ravel()) / (w.ravel() @ w.ravel()) * w
  return np.linalg.norm(g) * v / np.linalg.norm(v)


def test_orthograd_is_its_definition_and_keeps_the_norm():
  rng = np.random.default_rng(0)
  weights = {'a': np.array([3.0, 4.0]), 'b': rng.normal(size=(4, 5))}
  gradients = {'a': np.array([1.0, 2.0]), 'b': rng.normal(size=(4, 5))}
  transform = objectives.orthograd()
  found, _ = transform.update(*(jax.tree.map(jnp.float32, x) for x in (gradients, transform.init(weights), weights)))
  np.testing.assert_allclose(found['a'], [-1.788854, 1.341641], atol=1e-6)
  np.testing.assert_allclose(found['b'], orthogonal(gradients['b'], weights['b']), atol=1e-5)
  for name, g in found.items():
    assert float(jnp.vdot(g, weights[name])) == pytest.approx(0.0, abs=1e-5)
    assert float(jnp.linalg.norm(g)) == pytest.approx(np.linalg.norm(gradients[name]), rel=1e-6)


def test_orthograd_takes_scanned_layers_one_by_one():
  rng = np.random.default_rng(1)
  weights, gradients = ({'layers': {'kernel': jnp.asarray(rng.normal(size=(2, 3, 4)), jnp.float32)}} for _ in range(2))
  found, _ = objectives.orthograd().update(gradients, optax.EmptyState(), weights)
  for layer in range(2):
    g, w = (np.float64(tree['layers']['kernel'][layer]) for tree in (gradients, weights))
    np.testing.assert_allclose(found['layers']['kernel'][layer], orthogonal(g, w), atol=1e-5)


def test_orthograd_scales_up_no_rounding():
  """A gradient along its weights, an array with one entry, a gradient of 0, and weights of 0, which have no direction."""
  weights = {'along': np.arange(1.0, 8), 'one': np.array([0.3]), 'still': np.ones(3), 'new': np.zeros(3)}
  gradients = {'along': 0.1 * np.arange(1.0, 8), 'one': np.array([7.0]), 'still': np.zeros(3), 'new': np.array([1.0, 2, 3])}
  found, _ = objectives.orthograd().update(
    jax.tree.map(jnp.float32, gradients), optax.EmptyState(), jax.tree.map(jnp.float32, weights)
  )
  for name in ('along', 'one', 'still'):
    np.testing.assert_array_equal(found[name], 0.0)
  np.testing.assert_allclose(found['new'], gradients['new'], rtol=1e-6)


# ------------------------------------------------------------------------------------------------------------- in the stage


@pytest.fixture(scope='module')
def chosen():
  return tiny_experiment(named(warm_start__loss='stablemax_ce', warm_start__gradients='orthograd'))


def batch(exp) -> SupervisedBatch:
  rng, c = np.random.default_rng(0), exp.config.rollout
  tokens = rng.integers(3, 10, size=(4, c.prompt_width + c.horizon)).astype(np.int32)
  return SupervisedBatch(tokens, np.full(4, c.prompt_width, np.int32), np.array([3, 16, 1, 7], np.int32))


def test_the_loss_is_the_cross_entropy_under_the_chosen_probabilities(chosen):
  learner, params, c = supervised_learner(chosen), first_params(chosen, 0), chosen.config.rollout
  tokens, prompt_lengths = map(jnp.asarray, batch(chosen)[:2])
  prompts, responses = tokens[:, : c.prompt_width], tokens[:, c.prompt_width :]

  @jax.jit
  def logits(params):
    scored = score(
      chosen.model, params, prompts, prompt_lengths, responses, temperature=1.0, chunk=1000, likelihood=lambda x: x
    )
    return scored.opening_logprobs

  state = init_state(params, learner.optimizer, make_rule(chosen.config, 'never'))
  opening = stablemax(logits(state.params))
  one = SupervisedBatch(tokens, prompt_lengths, np.ones(4, np.int32))
  _, metrics = learner.update(jax.tree.map(jnp.copy, state), one)
  wanted = -np.mean([opening[n, responses[n, 0]] for n in range(4)])
  assert float(metrics['loss/total']) == pytest.approx(wanted, rel=1e-5)
  after, _ = learner.update(jax.tree.map(jnp.copy, state), batch(chosen))
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(after.params))


def test_the_softmax_has_its_gradient_in_closed_form(monkeypatch):
  exp = tiny_experiment(named())
  learner = supervised_learner(exp)
  monkeypatch.setattr(scoring, 'read_under', None)  # the way of other likelihoods
  state = init_state(first_params(exp, 0), learner.optimizer, make_rule(exp.config, 'never'))
  _, metrics = learner.update(state, batch(exp))
  assert np.isfinite(float(metrics['loss/total']))


def test_another_likelihood_has_no_divergence(chosen):
  params = first_params(chosen, 0)
  with pytest.raises(ValueError, match='that of the softmax; fix: no other likelihood, or against = None'):
    rows = batch(chosen)
    width = chosen.config.rollout.prompt_width
    given = jnp.asarray(rows.tokens[:, :width]), jnp.asarray(rows.prompt_lengths), jnp.asarray(rows.tokens[:, width:])
    score(chosen.model, params, *given, temperature=1.0, chunk=1000, against=params, likelihood=objectives.stablemax_ce)


def test_the_optimizer_is_given_orthogonal_gradients(chosen):
  plain = tiny_experiment(named(warm_start__loss='stablemax_ce'))
  params = {'policy': {'kernel': jnp.ones((3, 4)), 'scale': jnp.arange(1.0, 4)}}
  rng = np.random.default_rng(1)
  gradients = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), x.dtype), params)
  orthogonal_ones, _ = objectives.orthograd().update(gradients, optax.EmptyState(), params)
  updates = []
  for exp, given in ((chosen, gradients), (plain, orthogonal_ones), (plain, gradients)):
    optimizer = supervised_learner(exp).optimizer
    updates.append(jax.jit(optimizer.update)(given, jax.jit(optimizer.init)(params), params)[0])
  for ours, wanted in zip(jax.tree.leaves(updates[0]), jax.tree.leaves(updates[1]), strict=True):
    np.testing.assert_allclose(ours, wanted, rtol=1e-5)
  assert all(np.any(a != b) for a, b in zip(*map(jax.tree.leaves, updates[1:]), strict=True))


@pytest.mark.parametrize(
  ('field', 'value', 'message'),
  [
    ('loss', 'stablemax', "warm_start.loss = 'stablemax': .* did you mean 'stablemax_ce'"),
    ('gradients', 'ortho', "warm_start.gradients = 'ortho': unknown; fix: one of none, orthograd"),
  ],
)
def test_an_unknown_choice_is_refused(field, value, message):
  config = default_config()
  config.warm_start[field] = value
  with pytest.raises(ConfigError, match=message):
    validate(config)

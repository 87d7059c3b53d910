"""Losses and advantages against tunix, Google's post-training library, on the same tensors: values and gradients.

Of tunix only its functions on arrays are loaded, with the module that runs a model told the log-probabilities instead; it is
installed without its dependencies (requirements-test-nodeps.txt).
"""

import importlib
import importlib.util
import pathlib
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from loss_cases import LENGTHS, MASK, loss_arrays, loss_inputs, total

from espo_jax import objectives
from espo_jax.objectives import compose, gae, get

REAL_ROWS = LENGTHS > 0


@pytest.fixture(scope='module')
def tunix():
  """`tunix.rl.algo_core` without what `import tunix` drags in."""
  found = importlib.util.find_spec('tunix')
  assert found, 'fix: pip install --no-deps -r requirements-test-nodeps.txt'
  package = types.ModuleType('tunix')
  package.__path__ = [str(pathlib.Path(found.origin).parent)]
  sys.modules['tunix'] = package
  yield importlib.import_module('tunix.rl.algo_core')
  for name in [name for name in sys.modules if name.partition('.')[0] == 'tunix']:
    del sys.modules[name]


@pytest.fixture
def peer(tunix, monkeypatch):
  """`(loss function, x, settings) -> loss`: tunix's loss of given tensors."""

  def run(function, x, advantages=None, mask=MASK, **settings):
    logits = jnp.zeros((*x['logprobs'].shape, 2))
    monkeypatch.setattr(tunix.common, 'compute_per_token_logps', lambda *a, **k: (x['logprobs'], logits))
    example = types.SimpleNamespace(
      prompt_ids=None,
      completion_ids=None,
      completion_mask=jnp.asarray(mask, jnp.float32),
      advantages=x['advantages'] if advantages is None else advantages,
      old_per_token_logps=x['old_logprobs'],
      ref_per_token_logps=x['reference_logprobs'],
      sampler_is_weights=settings.pop('weights', None),
    )
    config = {'beta': 0.0, 'kl_loss_mode': 'low_var_kl', 'kl_clamp_value': None, 'temperature': 1.0, 'entropy_coef': 0.0}
    return function(nnx.Module(), example, types.SimpleNamespace(**config | settings), 0, 0)[0]

  return run


def same(ours, theirs, logprobs):
  """Values and gradients in the log-probabilities are the same."""
  one, two = (jax.value_and_grad(f)(jnp.asarray(logprobs)) for f in (ours, theirs))
  assert abs(float(one[0]) - float(two[0])) < 1e-5
  np.testing.assert_allclose(one[1], two[1], atol=1e-6)
  assert np.any(one[1])


def loss_of(expression, x, **options):
  return lambda lp: total(compose(expression, options)(loss_inputs(x | {'logprobs': lp}))[0])


def test_ppo(tunix, peer):
  for seed, dual_clip in ((0, 0.0), (1, 1.4)):
    x = loss_arrays(seed)
    theirs = lambda lp, x=x, c=dual_clip: peer(
      tunix.ppo_policy_loss_fn, x | {'logprobs': lp}, epsilon_low=0.15, epsilon_high=0.3, epsilon_c=c or None
    )
    same(loss_of('ppo', x, clip_low=0.15, clip_high=0.3, dual_clip=dual_clip, value_coef=0.0), theirs, x['logprobs'])


def test_ppos_value(tunix, monkeypatch):
  x = loss_arrays()

  def theirs(values):
    after = jnp.pad(values, ((0, 0), (0, 1)))  # tunix scores the state after the last token too
    monkeypatch.setattr(tunix.common, 'compute_score', lambda *a, **k: after)
    example = types.SimpleNamespace(
      prompt_ids=None,
      completion_ids=jnp.zeros(values.shape),
      completion_mask=jnp.asarray(MASK, jnp.float32),
      old_values=x['old_values'],
      returns=x['returns'],
    )
    return tunix.ppo_value_loss_fn(nnx.Module(), example, 0.25, 0, 0)[0]

  ours = lambda v: get('ppo')(loss_inputs(x | {'values': v}), value_clip=0.25)[0]['value'][1].mean
  same(ours, theirs, x['values'])


@pytest.mark.parametrize(
  ('name', 'settings', 'options'),
  [
    ('grpo', {'loss_agg_mode': 'sequence-mean-token-mean'}, {}),
    ('grpo', {'loss_agg_mode': 'sequence-mean-token-mean', 'epsilon_c': 1.4}, {'dual_clip': 1.4}),
    ('grpo + kl_k3', {'loss_agg_mode': 'sequence-mean-token-mean', 'beta': 0.3}, {'kl_coef': 0.3}),
    ('dapo', {'loss_agg_mode': 'token-mean', 'epsilon_high': 0.28}, {}),
    (
      'dapo + kl_k1',
      {'loss_agg_mode': 'token-mean', 'epsilon_high': 0.28, 'beta': 0.3, 'kl_loss_mode': 'kl'},
      {'kl_coef': 0.3},
    ),
    (
      'dapo + kl_k2',
      {'loss_agg_mode': 'token-mean', 'epsilon_high': 0.28, 'beta': 0.3, 'kl_loss_mode': 'mse_kl'},
      {'kl_coef': 0.3},
    ),
    ('drgrpo', {'loss_agg_mode': 'sequence-mean-token-scale'}, {}),
    (
      'gspo',
      {'loss_algo': 'gspo-token', 'loss_agg_mode': 'sequence-mean-token-mean', 'epsilon': 3e-4, 'epsilon_high': 4e-4},
      {},
    ),
  ],
  ids=lambda value: value if isinstance(value, str) else '',
)
def test_group_relative_losses(tunix, peer, name, settings, options):
  settings = {'epsilon': 0.2, 'epsilon_high': 0.2, 'epsilon_c': None, 'loss_algo': 'grpo'} | settings
  for seed in range(2):
    x = loss_arrays(seed, spread=1e-3 if name == 'gspo' else 0.3, per_row=True)
    theirs = lambda lp, x=x: peer(tunix.grpo_loss_fn, x | {'logprobs': lp}, x['advantages'][:, 0], **settings)
    same(loss_of(name, x, **options), theirs, x['logprobs'])


def test_rloo(tunix, peer):
  """Where a response is one action, it is one token of tunix's clipped loss, which has no loss of its own for RLOO."""
  x = loss_arrays(per_row=True)
  rewards = np.random.default_rng(0).normal(size=6).astype(np.float32)
  advantages = tunix.compute_rloo_advantages(jnp.asarray(rewards), 3)
  np.testing.assert_allclose(objectives.loo(jnp.asarray(rewards.reshape(2, 3))).reshape(-1), advantages, atol=1e-6)
  x['advantages'] = np.insert(np.asarray(advantages), 3, 0.0)[:, None] * np.ones_like(x['advantages'])  # row 3 has no tokens

  def theirs(lp):
    whole = {
      name: jnp.where(MASK, y, 0.0).sum(1, keepdims=True)
      for name, y in (x | {'logprobs': lp}).items()
      if 'logprobs' in name and y.shape == MASK.shape
    }
    settings = {'epsilon': 0.2, 'epsilon_high': 0.2, 'loss_algo': 'grpo', 'loss_agg_mode': 'token-mean'}
    return peer(tunix.grpo_loss_fn, whole, x['advantages'][:, 0], mask=REAL_ROWS[:, None], **settings)

  same(loss_of('rloo', x), theirs, x['logprobs'])


def test_importance_weights_are_a_factor_of_the_advantage(tunix, peer):
  """Tunix weighs the loss of each token, the learner its advantage: all surrogates are linear in it."""
  x = loss_arrays(per_row=True)
  weights = np.random.default_rng(0).uniform(0, 2, MASK.shape).astype(np.float32)
  settings = {'epsilon': 0.2, 'epsilon_high': 0.28, 'loss_algo': 'grpo', 'loss_agg_mode': 'token-mean', 'weights': weights}
  theirs = lambda lp: peer(tunix.grpo_loss_fn, x | {'logprobs': lp}, x['advantages'][:, 0], **dict(settings))
  same(loss_of('dapo', x | {'advantages': x['advantages'] * weights}), theirs, x['logprobs'])


def test_advantages(tunix):
  rewards = np.random.default_rng(1).normal(size=12).astype(np.float32)
  grouped = jnp.asarray(rewards.reshape(3, 4))
  sample_deviation = np.sqrt(3 / 4)  # tunix divides by the sample's, the paper says the group's
  np.testing.assert_allclose(
    objectives.group_zscore(grouped).reshape(-1) * sample_deviation, tunix.compute_advantages(rewards, 4), atol=1e-5
  )
  np.testing.assert_allclose(
    objectives.mean_only(grouped).reshape(-1), tunix.compute_drgrpo_advantages(jnp.asarray(rewards), 4), atol=1e-6
  )


def test_gaes_returns(tunix):
  x = loss_arrays()
  rewards, values = (np.where(MASK, x[name], 0).astype(np.float32) for name in ('returns', 'values'))
  mask = jnp.asarray(MASK)
  _, theirs = tunix.compute_gae_advantages(jnp.asarray(rewards), jnp.asarray(values), mask.astype(jnp.float32), 0.97, 0.9)
  _, ours = gae(jnp.asarray(rewards), jnp.asarray(values), mask, gamma=0.97, lam=0.9)
  np.testing.assert_allclose(np.asarray(ours)[MASK], np.asarray(theirs)[MASK], atol=1e-5)

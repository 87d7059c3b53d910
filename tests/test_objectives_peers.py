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
import rounding
from flax import nnx
from loss_cases import LENGTHS, MASK, N, T, applied, loss_arrays, loss_inputs, total

from espo_jax import objectives
from espo_jax.objectives import compose, gae

REAL_ROWS = LENGTHS > 0
ROUNDINGS = 2 * (N * T + 20)  # of a loss, theirs and ours: a sum over all tokens of some twenty operations each


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


def same(ours, theirs, x, field='logprobs'):
  """Two losses of arrays have the same values, and the same gradients in one of them."""
  one, two = (
    lambda x, f=f: jax.value_and_grad(lambda moving, x: f(x | {field: moving}))(jnp.asarray(x[field]), x)
    for f in (ours, theirs)
  )
  _, gradient = rounding.assert_computes(jax.jit(one), (x,), two(x), roundings=ROUNDINGS)
  assert np.any(gradient)


NEAR_MEAN = 1 + 1e-8 / float(LENGTHS.sum())  # of tokens by tunix's count of them, which 1e-8 is added to, in its PPO alone


def loss_of(expression, **options):
  return lambda x: total(compose(expression, options)(loss_inputs(x))[0])


def test_ppo(precision, tunix, peer):
  for seed, dual_clip in ((0, 0.0), (1, 1.4)):
    settings = {'epsilon_low': 0.15, 'epsilon_high': 0.3, 'epsilon_c': dual_clip or None}
    theirs = lambda x, settings=settings: NEAR_MEAN * peer(tunix.ppo_policy_loss_fn, x, **settings)
    ours = loss_of('ppo', clip_low=0.15, clip_high=0.3, dual_clip=dual_clip, value_coef=0.0)
    same(ours, theirs, loss_arrays(seed, precision))


def test_ppos_value(precision, tunix, monkeypatch):
  def theirs(x):
    values = x['values']
    after = jnp.pad(values, ((0, 0), (0, 1)))  # tunix scores the state after the last token too
    monkeypatch.setattr(tunix.common, 'compute_score', lambda *a, **k: after)
    example = types.SimpleNamespace(
      prompt_ids=None,
      completion_ids=jnp.zeros(values.shape),
      completion_mask=jnp.asarray(MASK, jnp.float32),
      old_values=x['old_values'],
      returns=x['returns'],
    )
    return NEAR_MEAN * tunix.ppo_value_loss_fn(nnx.Module(), example, 0.25, 0, 0)[0]

  ours = lambda x: applied('ppo', loss_inputs(x), value_clip=0.25)[0]['value'][1].mean
  same(ours, theirs, loss_arrays(dtype=precision), 'values')


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
def test_group_relative_losses(precision, tunix, peer, name, settings, options):
  settings = {'epsilon': 0.2, 'epsilon_high': 0.2, 'epsilon_c': None, 'loss_algo': 'grpo'} | settings
  for seed in range(2):
    x = loss_arrays(seed, precision, spread=1e-3 if name == 'gspo' else 0.3, per_row=True)
    theirs = lambda x: peer(tunix.grpo_loss_fn, x, x['advantages'][:, 0], **settings)
    same(loss_of(name, **options), theirs, x)


def test_rloo(precision, tunix, peer):
  """Where a response is one action, it is one token of tunix's clipped loss, which has no loss of its own for RLOO."""
  x = loss_arrays(dtype=precision, per_row=True)
  rewards = np.random.default_rng(0).normal(size=6).astype(precision)
  advantages = tunix.compute_rloo_advantages(jnp.asarray(rewards), 3)
  ours = lambda rewards: objectives.loo(rewards.reshape(2, 3)).reshape(-1)
  rounding.assert_computes(ours, (jnp.asarray(rewards),), advantages, roundings=20)  # means of three, theirs and ours
  x['advantages'] = np.insert(np.asarray(advantages), 3, 0.0)[:, None] * np.ones_like(x['advantages'])  # row 3 has no tokens

  def theirs(x):
    whole = {
      name: jnp.where(MASK, y, 0.0).sum(1, keepdims=True)
      for name, y in x.items()
      if 'logprobs' in name and y.shape == MASK.shape
    }
    settings = {'epsilon': 0.2, 'epsilon_high': 0.2, 'loss_algo': 'grpo', 'loss_agg_mode': 'token-mean'}
    return peer(tunix.grpo_loss_fn, whole, x['advantages'][:, 0], mask=REAL_ROWS[:, None], **settings)

  same(loss_of('rloo'), theirs, x)


def test_importance_weights_are_a_factor_of_the_advantage(precision, tunix, peer):
  """Tunix weighs the loss of each token, the learner its advantage: all surrogates are linear in it."""
  x = loss_arrays(dtype=precision, per_row=True)
  weights = np.random.default_rng(0).uniform(0, 2, MASK.shape).astype(precision)
  settings = {'epsilon': 0.2, 'epsilon_high': 0.28, 'loss_algo': 'grpo', 'loss_agg_mode': 'token-mean', 'weights': weights}
  theirs = lambda x: peer(tunix.grpo_loss_fn, x, x['advantages'][:, 0], **dict(settings))
  ours = loss_of('dapo')
  same(lambda x: ours(x | {'advantages': x['advantages'] * weights}), theirs, x)


def test_advantages(precision, tunix):
  rewards = np.random.default_rng(1).normal(size=12).astype(precision)
  sample_deviation = np.sqrt(3 / 4)  # tunix divides by the sample's, the paper says the group's
  theirs = tunix.compute_advantages(rewards, 4), tunix.compute_drgrpo_advantages(jnp.asarray(rewards), 4)

  def ours(rewards):
    grouped = rewards.reshape(3, 4)
    standardised = objectives.group_zscore(grouped, epsilon=1e-6 * sample_deviation)
    return standardised.reshape(-1) * sample_deviation, objectives.mean_only(grouped).reshape(-1)

  rounding.assert_computes(ours, (jnp.asarray(rewards),), theirs, roundings=40)  # means of four, theirs and ours


def test_gaes_returns(precision, tunix):
  x = loss_arrays(dtype=precision)
  rewards, values = (jnp.where(MASK, x[name], 0.0) for name in ('returns', 'values'))
  mask = jnp.asarray(MASK)
  _, theirs = tunix.compute_gae_advantages(rewards, values, mask.astype(jnp.float32), 0.97, 0.9)
  ours = lambda rewards, values: gae(rewards, values, mask, gamma=0.97, lam=0.9)[1]
  theirs = np.where(MASK, theirs, 0.0)  # what they say of tokens past the end is nothing
  rounding.assert_computes(ours, (rewards, values), theirs, roundings=2 * 6 * T)  # six operations a token, theirs and ours

"""The objectives, advantages and importance weights of 2025 and 2026 against their formulas in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rounding
from loss_cases import MASK, N, T, applied, loss_arrays, loss_inputs, total
from tiny import named, rolled_out, rule_of, tiny_experiment

from espo_jax import objectives, rewards
from espo_jax.stages import rl
from espo_jax.types import Verdicts

ADVANTAGE = objectives.ADVANTAGES

# ------------------------------------------------------------------------------------------------------------------- cispo


def test_cispo_keeps_a_gradient_where_ppos_clip_binds():
  x = loss_inputs(loss_arrays())
  gradient = jax.grad(lambda logprobs: total(applied('cispo', x | {'logprobs': logprobs})[0]))(x['logprobs'])
  assert (gradient[MASK] != 0).all() and not gradient[~MASK].any()
  assert applied('cispo', x)[1]['clip_fraction'] > 0


def test_at_the_sampling_policy_cispo_has_ppos_gradient(in_float64):
  x = loss_inputs(loss_arrays(dtype=np.float64))
  x['logprobs'] = x['old_logprobs']

  def gradient(name, part):
    return jax.grad(lambda logprobs: applied(name, x | {'logprobs': logprobs})[0][part][1].mean)(x['logprobs'])

  np.testing.assert_allclose(gradient('cispo', 'policy'), gradient('ppo', 'policy'), atol=1e-14)


# --------------------------------------------------------------------------------------------------------------- advantages


def test_maxrl_weighs_a_prompt_by_how_rarely_it_is_solved():
  scores = jnp.asarray([[1.0, 0, 0, 0], [1.0, 1, 0, 0], [1.0, 1, 1, 1], [0.0, 0, 0, 0]])
  found = ADVANTAGE['maxrl'].function(scores, epsilon=0.0)
  np.testing.assert_allclose(found, [[3, -1, -1, -1], [1, 1, -1, -1], [0, 0, 0, 0], [0, 0, 0, 0]])
  negative = ADVANTAGE['maxrl'].function(jnp.asarray([[-1.0, -1, -1, 0]]))
  np.testing.assert_array_equal(negative, 0)


def test_maxrls_expected_gradient_is_that_of_the_truncated_likelihood(in_float64):
  """With `n` samples of success `p` it is the gradient of `sum_{k=1..n} -(1 - p)^k / k`, less `p (1 - p)^n`."""
  p, n = 0.3, 4
  slope = 0.0  # of success by the logit, as the mean over all samples of advantage times the score function
  for bits in range(2**n):
    r = np.array([bits >> i & 1 for i in range(n)], float)
    chance = np.prod(np.where(r == 1, p, 1 - p))
    advantages = np.asarray(ADVANTAGE['maxrl'].function(jnp.asarray(r[None]), epsilon=0.0))[0]
    slope += chance * (advantages * (r - p)).mean()
  truncated = sum((1 - p) ** (k - 1) for k in range(1, n + 1)) * p * (1 - p)  # d/dp, times dp/dlogit
  assert slope == pytest.approx(truncated - p * (1 - p) ** n, rel=1e-12)  # a group without a success has no baseline either


def test_gdpo_keeps_apart_what_a_sum_confuses():
  """Two rewards that swap: the sums of the first group are equal, and so is every z-score of them."""
  parts = np.array([[[1.0, 0.0], [0.0, 0.5], [1.0, 0.5]], [[1.0, 0.0], [0.0, 0.0], [1.0, 0.5]]])
  weights = np.array([1.0, 2.0])
  found = ADVANTAGE['gdpo'].function(jnp.asarray(parts), jnp.asarray(weights), epsilon=0.0)
  scaled = (parts - parts.mean(1, keepdims=True)) / parts.std(1, keepdims=True) @ weights
  np.testing.assert_allclose(found, (scaled - scaled.mean()) / scaled.std(), rtol=1e-5, atol=1e-6)


def test_gdpo_of_one_reward_is_grpos_advantage(precision):
  scores = jnp.asarray(np.random.default_rng(0).random((5, 4)), precision)
  one = ADVANTAGE['gdpo'].function(scores[..., None], jnp.ones(1, precision), whiten=False)
  rounding.assert_close(one, ADVANTAGE['group_zscore'].function(scores), roundings=20, size=2.0)


@pytest.mark.parametrize(
  ('expression', 'wanted'),
  [
    ('correct', (1.0,)),
    ('correct + 0.5 * overlong', (1.0, 0.5)),
    ('correct * 2 + 0.5 * (overlong + 3 * format)', (2.0, 0.5, 1.5)),
    ('hmpo & format', (1.0,)),
    ('2 * (hmpo & format) + correct', (2.0, 1.0)),
    ('0.5 * 0.5 * overlong + correct', (0.25, 1.0)),
    ('(1 + 2) * correct', (3.0,)),
  ],
)
def test_the_summands_of_an_expression_have_their_weights(expression, wanted):
  assert rewards.weights(expression) == wanted
  rng = np.random.default_rng(1)
  correct, ended = rng.random((3, 4)) < 0.5, rng.random((3, 4)) < 0.7
  seen = {
    'correct': jnp.asarray(correct, jnp.float32),
    'lengths': jnp.asarray(rng.integers(1, 9, (3, 4)), jnp.int32),
    'horizon': 8,
    'ended': jnp.asarray(ended),
    'formatted': jnp.asarray(ended),
    'mask': jnp.ones((3, 4, 8), bool),
  }
  parts = rewards.evaluate_parts(expression, {}, seen)
  assert parts.shape == (3, 4, len(wanted))
  rounding.assert_close(parts @ jnp.asarray(wanted), rewards.evaluate(expression, {}, seen)[0], roundings=8, size=8.0)


def test_the_learner_normalises_each_reward_apart(in_float64):
  lines = {'objective__name': 'grpo', 'advantage__name': 'gdpo', 'reward__name': 'correct + 0.5 * format'}
  exp = tiny_experiment(named(**lines))
  params, rows, _ = rolled_out(exp)
  learner, count = rl.reinforcement_learner(exp, rule_of(exp)), rows.length.shape[0]
  rng = np.random.default_rng(3)
  correct, flags = rng.random(count).round(), rng.random(count) < 0.5
  nothing = np.zeros(count, bool)
  verdicts = Verdicts(jnp.asarray(correct), jnp.asarray(flags), nothing, np.zeros(count, np.int32), nothing, nothing)
  reward, _, _ = learner.graded(rows, jax.tree.map(jnp.asarray, verdicts), rule_of(exp).init(1).adaptive)
  batch, _ = learner.prepare(params, None, rows, reward)
  stopped, ended = np.asarray(rows.stopped), np.asarray(rows.stop_reason) == 1
  parts = np.stack([np.where(stopped, -1.0, correct), np.where(stopped, -1.0, ended & flags)], 1).reshape(
    -1, exp.config.rollout.samples, 2
  )
  apart = (parts - parts.mean(1, keepdims=True)) / (parts.std(1, keepdims=True) + 1e-6) @ [1.0, 0.5]
  wanted = ((apart - apart.mean()) / np.sqrt(apart.var() + 1e-8)).reshape(-1)
  real = np.asarray(rows.mask)
  np.testing.assert_allclose(batch.advantages, np.where(real, wanted[:, None], 0.0), rtol=1e-6, atol=1e-6)


# ------------------------------------------------------------------------------------------------- weights, and TEPO's entropy


def test_a_number_is_no_summand():
  assert rewards.weights('correct + 0.5') == (1.0,)


@pytest.mark.parametrize('level', objectives.LEVELS)
def test_importance_weights_are_their_table(level, precision):
  difference = np.random.default_rng(4).normal(0, 0.4, (N, T)).astype(precision)
  found, beyond = objectives.importance_weights(jnp.asarray(difference), jnp.asarray(MASK), level=level, cap=1.5)
  exact = np.where(MASK, difference.astype(np.float64), 0.0)
  ratio = np.exp(exact if level == 'token' else np.broadcast_to(exact.sum(1, keepdims=True), exact.shape))
  wanted = np.where(ratio > 1.5, 0.0 if level == 'sequence_masked' else 1.5, ratio)
  np.testing.assert_array_equal(beyond, (ratio > 1.5) & MASK)
  assert 0 < beyond.sum() < MASK.sum()
  rounding.assert_close(found[MASK], wanted[MASK], roundings=T + 4, size=3.0 * np.abs(exact).sum(1).max())


def test_tepo_compares_with_the_reference_policy_if_asked(in_float64):
  x = loss_inputs(loss_arrays(dtype=np.float64))
  assert 'reference_entropy' in objectives.reads('tepo', {'entropy_reference': 'reference'})
  assert 'reference_entropy' not in objectives.reads('tepo', {})
  _, metrics = applied('tepo', x, entropy_reference='reference')
  costs = (x['advantages'] > 0) & (x['entropy'] < x['reference_entropy'] - 1e-5) & MASK
  assert metrics['kl_mask'] == pytest.approx(costs.sum() / MASK.sum()) and costs.sum() > 0
  old = applied('tepo', x | {'old_entropy': x['reference_entropy']})
  assert total(applied('tepo', x, entropy_reference='reference')[0]) == total(old[0])

"""GAE, PPO and the masked functions against plain float64 loops and rlax."""

import jax.numpy as jnp
import numpy as np
import pytest
import rlax
from loss_cases import LENGTHS, MASK, N, T, loss_arrays, loss_inputs, trajectories

from espo_jax import objectives, rewards
from espo_jax.objectives import gae, masked_mean, masked_sum, masked_variance, ppo, token_mean, whiten
from espo_jax.types import Reward, StopReason


def advantages_by_definition(reward, value, length, gamma, lam, after):
  """A_t as the double sum of the definition: (gamma lam)^k times the k-th delta ahead."""
  delta = np.zeros(length)
  for t in range(length):
    following = value[t + 1] if t + 1 < length else after
    delta[t] = reward[t] + gamma * following - value[t]
  return np.array([sum((gamma * lam) ** (k - t) * delta[k] for k in range(t, length)) for t in range(length)])


# --------------------------------------------------------------------------------------------------------------------- gae


@pytest.fixture
def streams():
  rng = np.random.default_rng(0)
  return [x.astype(np.float32) for x in (rng.normal(0, 0.5, (N, T)), rng.normal(0, 0.5, (N, T)), rng.normal(0, 0.5, N))]


@pytest.mark.parametrize(('gamma', 'lam'), [(1.0, 1.0), (0.97, 0.9), (0.9, 0.0), (0.0, 0.7)])
@pytest.mark.parametrize('bootstrapped', [False, True])
def test_gae_is_its_definition(no_rank_promotion, streams, gamma, lam, bootstrapped):
  reward, value, after = streams
  hidden = [jnp.asarray(np.where(MASK, x, np.nan)) for x in (reward, value)]  # what the mask hides may be anything
  advantages, returns = gae(
    *hidden, jnp.asarray(MASK), gamma=gamma, lam=lam, bootstrap=jnp.asarray(after) if bootstrapped else None
  )
  for n, length in enumerate(LENGTHS):
    exact = [x[n].astype(np.float64) for x in (reward, value)]
    wanted = advantages_by_definition(*exact, length, gamma, lam, after[n] if bootstrapped else 0.0)
    np.testing.assert_allclose(advantages[n, :length], wanted, atol=1e-6)
    np.testing.assert_allclose(returns[n, :length], wanted + exact[1][:length], atol=1e-6)
    assert not np.any(advantages[n, length:]) and not np.any(returns[n, length:])


@pytest.mark.parametrize(('gamma', 'lam'), [(1.0, 1.0), (0.97, 0.9)])
def test_gae_is_rlaxs(streams, gamma, lam):
  reward, value, after = streams
  advantages, _ = gae(*map(jnp.asarray, (reward, value, MASK)), gamma=gamma, lam=lam, bootstrap=jnp.asarray(after))
  for n, length in enumerate(LENGTHS):
    if length:
      discounts = jnp.full(length, gamma, jnp.float32)
      values = jnp.append(value[n, :length], after[n])
      wanted = rlax.truncated_generalized_advantage_estimation(jnp.asarray(reward[n, :length]), discounts, lam, values)
      np.testing.assert_allclose(advantages[n, :length], wanted, atol=1e-6)


@pytest.mark.parametrize('lam', [0.0, 0.9, 1.0])
def test_a_stop_is_absorbing(streams, lam):
  """delta_stop = r_fail - V(s_stop), whatever lambda; with lambda = 1 every earlier advantage is r_fail - V too."""
  _, value, _ = streams
  rows = trajectories(LENGTHS, [StopReason.STOPPED] * N)
  placed = rewards.token_rewards(rows, Reward(jnp.ones(N)), fail=-1.0)
  advantages, returns = gae(placed, jnp.asarray(value), rows.mask, gamma=1.0, lam=lam)
  for n, length in enumerate(LENGTHS):
    if length:
      np.testing.assert_allclose(advantages[n, length - 1], -1.0 - value[n, length - 1], atol=1e-6)
      assert returns[n, length - 1] == pytest.approx(-1.0, abs=1e-6)
      if lam == 1.0:
        np.testing.assert_allclose(advantages[n, :length], -1.0 - value[n, :length], atol=1e-6)


# --------------------------------------------------------------------------------------------------------------------- ppo

CONSTANTS = {'clip_low': 0.15, 'clip_high': 0.3, 'dual_clip': 1.4, 'value_clip': 0.25, 'value_coef': 0.7}


def ppo_by_hand(x, *, clip_low, clip_high, dual_clip, value_clip, value_coef):
  """The weighted terms, token by token: Schulman et al. 2017, eq. 7; Ye et al. 2020, eq. 5; the clipped value error."""
  sums = dict.fromkeys(('policy', 'value', 'clipped', 'k3_old'), 0.0)
  for n, length in enumerate(LENGTHS):
    for t in range(length):
      at = {
        name: float(x[name][n, t]) for name in ('logprobs', 'old_logprobs', 'advantages', 'values', 'old_values', 'returns')
      }
      ratio, advantage = np.exp(at['logprobs'] - at['old_logprobs']), at['advantages']
      inside = min(max(ratio, 1 - clip_low), 1 + clip_high)
      gain = min(ratio * advantage, inside * advantage)
      if advantage < 0 and dual_clip:
        gain = max(gain, dual_clip * advantage)
      sums['policy'] += -gain
      sums['clipped'] += gain != ratio * advantage
      moved = min(max(at['values'], at['old_values'] - value_clip), at['old_values'] + value_clip)
      sums['value'] += 0.5 * max((at['values'] - at['returns']) ** 2, (moved - at['returns']) ** 2)
      sums['k3_old'] += ratio - 1 - np.log(ratio)
  means = {name: value / LENGTHS.sum() for name, value in sums.items()}
  return {'policy': 1.0, 'value': value_coef}, means


@pytest.mark.parametrize('dual_clip', [0.0, 1.4])
def test_ppo_is_the_sum_by_hand(dual_clip):
  x = loss_arrays()
  terms, metrics = ppo(loss_inputs(x), **CONSTANTS | {'dual_clip': dual_clip})
  weights, means = ppo_by_hand(x, **CONSTANTS | {'dual_clip': dual_clip})
  assert {name: weight for name, (weight, _) in terms.items()} == weights
  for name, (_, term) in terms.items():
    np.testing.assert_allclose(term.mean, means[name], rtol=1e-5)
  assert 0 < means['clipped'] < 1
  np.testing.assert_allclose(metrics['clip_fraction'], means['clipped'], rtol=1e-6)
  np.testing.assert_allclose(metrics['kl'], means['k3_old'], rtol=1e-4)


# ----------------------------------------------------------------------------------------------------------------- masked


def test_masked_functions_are_numpys_over_the_mask():
  rng = np.random.default_rng(3)
  x = rng.normal(1.0, 2.0, (N, T)).astype(np.float32)
  real = x[MASK].astype(np.float64)
  hidden, mask = jnp.asarray(np.where(MASK, x, np.nan)), jnp.asarray(MASK)
  np.testing.assert_allclose(masked_sum(hidden, mask), real.sum(), rtol=1e-5)
  np.testing.assert_allclose(masked_mean(hidden, mask), real.mean(), rtol=1e-5)
  np.testing.assert_allclose(masked_variance(hidden, mask), real.var(), rtol=1e-5)
  np.testing.assert_allclose(token_mean(hidden, mask).mean, real.mean(), rtol=1e-5)
  white = whiten(hidden, mask)
  np.testing.assert_allclose(white[MASK], (real - real.mean()) / np.sqrt(real.var() + 1e-8), atol=1e-5)
  assert not np.any(white[~MASK])


def test_masked_functions_of_nothing_are_zero():
  x, nothing = jnp.full((2, 3), jnp.nan), jnp.zeros((2, 3), bool)
  for f in (masked_sum, masked_mean, masked_variance, lambda x, mask: token_mean(x, mask).mean):
    assert f(x, nothing) == 0.0
  assert not np.any(whiten(x, nothing))


def test_explained_variance():
  rng = np.random.default_rng(4)
  values, returns = rng.normal(size=(2, N, T)).astype(np.float32)
  got = lambda v, r: float(
    objectives.explained_variance(jnp.where(MASK, v, jnp.nan), jnp.where(MASK, r, jnp.nan), jnp.asarray(MASK))
  )
  v, r = values[MASK].astype(np.float64), returns[MASK].astype(np.float64)
  assert got(values, returns) == pytest.approx(1 - (r - v).var() / r.var(), rel=1e-5)
  assert got(returns, returns) == 1.0
  assert got(np.full_like(returns, 0.7), returns) == pytest.approx(0.0, abs=1e-6)
  assert got(returns + 3.0, returns) == pytest.approx(1.0, abs=1e-5)  # an offset explains no less

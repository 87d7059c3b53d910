"""GAE, PPO and the masked functions against plain float64 loops and rlax."""

import jax.numpy as jnp
import numpy as np
import pytest
import rlax
import rounding
from loss_cases import LENGTHS, MASK, N, T, applied, loss_arrays, loss_inputs, trajectories

from espo_jax import objectives, rewards
from espo_jax.objectives import gae, masked_mean, masked_sum, masked_variance, token_mean, whiten
from espo_jax.types import Reward, StopReason


def advantages_by_definition(reward, value, length, gamma, lam, after):
  """A_t as the double sum of the definition: (gamma lam)^k times the k-th delta ahead."""
  delta = np.zeros(length)
  for t in range(length):
    following = value[t + 1] if t + 1 < length else after
    delta[t] = reward[t] + gamma * following - value[t]
  return np.array([sum((gamma * lam) ** (k - t) * delta[k] for k in range(t, length)) for t in range(length)])


# --------------------------------------------------------------------------------------------------------------------- gae

RECURSION = 6 * T  # roundings of advantages: six operations a token


@pytest.fixture
def streams(precision):
  rng = np.random.default_rng(0)
  return [x.astype(precision) for x in (rng.normal(0, 0.5, (N, T)), rng.normal(0, 0.5, (N, T)), rng.normal(0, 0.5, N))]


@pytest.mark.parametrize(('gamma', 'lam'), [(1.0, 1.0), (0.97, 0.9), (0.9, 0.0), (0.0, 0.7)])
@pytest.mark.parametrize('bootstrapped', [False, True])
def test_gae_is_its_definition(no_rank_promotion, streams, gamma, lam, bootstrapped):
  reward, value, after = streams
  hidden = [jnp.asarray(np.where(MASK, x, np.nan)) for x in (reward, value)]  # what the mask hides may be anything
  wanted = np.zeros((2, N, T))
  for n, length in enumerate(LENGTHS):
    exact = [x[n].astype(np.float64) for x in (reward, value)]
    wanted[0, n, :length] = advantages_by_definition(*exact, length, gamma, lam, after[n] if bootstrapped else 0.0)
    wanted[1, n, :length] = wanted[0, n, :length] + exact[1][:length]

  def run(reward, value, after):
    return gae(reward, value, jnp.asarray(MASK), gamma=gamma, lam=lam, bootstrap=after if bootstrapped else None)

  found = rounding.assert_computes(run, (*hidden, jnp.asarray(after)), tuple(wanted), roundings=RECURSION)
  for x in found:
    assert not np.any(x[~MASK])


def test_gae_skips_what_the_mask_hides_between_tokens(streams):
  """Observations between the turns of an episode change neither the advantages of the policy's tokens nor their returns."""
  reward, value, after = streams
  real = MASK & (np.arange(T) % 3 != 1)
  order = np.argsort(~real, axis=1, kind='stable')
  packed, spread = np.take_along_axis(real, order, axis=1), np.argsort(order, axis=1)
  options = {'gamma': 0.97, 'lam': 0.9, 'bootstrap': jnp.asarray(after)}
  wanted = gae(*(jnp.asarray(np.take_along_axis(x, order, axis=1)) for x in (reward, value)), jnp.asarray(packed), **options)
  hidden = [jnp.asarray(np.where(real, x, np.nan)) for x in (reward, value)]
  for got, its in zip(gae(*hidden, jnp.asarray(real), **options), wanted, strict=True):
    np.testing.assert_array_equal(got, np.take_along_axis(np.asarray(its), spread, axis=1))


@pytest.mark.parametrize(('gamma', 'lam'), [(1.0, 1.0), (0.97, 0.9)])
def test_gae_is_rlaxs(streams, gamma, lam):
  reward, value, after = streams
  wanted = np.zeros((N, T))
  for n, length in enumerate(LENGTHS):
    if length:
      discounts = jnp.full(length, gamma, jnp.float32)
      values = jnp.append(value[n, :length], after[n])
      theirs = rlax.truncated_generalized_advantage_estimation(jnp.asarray(reward[n, :length]), discounts, lam, values)
      wanted[n, :length] = theirs

  def run(reward, value, after):
    return gae(reward, value, jnp.asarray(MASK), gamma=gamma, lam=lam, bootstrap=after)[0]

  rounding.assert_computes(run, tuple(map(jnp.asarray, streams)), wanted, roundings=2 * RECURSION)  # theirs as well


@pytest.mark.parametrize('lam', [0.0, 0.9, 1.0])
def test_a_stop_is_absorbing(streams, lam):
  """delta_stop = r_fail - V(s_stop), whatever lambda; with lambda = 1 every earlier advantage is r_fail - V too."""
  _, value, _ = streams
  rows = trajectories(LENGTHS, [StopReason.STOPPED] * N)
  placed = rewards.token_rewards(rows, Reward(jnp.ones(N)), stopped=-1.0)
  run = lambda placed, value: gae(placed, value, rows.mask, gamma=1.0, lam=lam)
  absorbed = -1.0 - value.astype(np.float64)
  told = MASK if lam == 1.0 else MASK & ~np.roll(MASK, -1, axis=1)  # the last token, or all of them
  told[LENGTHS == T, -1] = True
  advantages, returns = (np.asarray(x)[told] for x in run(placed, jnp.asarray(value)))
  bounds = rounding.of_program(run, placed, jnp.asarray(value), roundings=RECURSION)
  rounding.assert_within((advantages, returns), (absorbed[told], np.full(told.sum(), -1.0)), bounds)


# --------------------------------------------------------------------------------------------------------------------- ppo

CONSTANTS = {'clip_low': 0.15, 'clip_high': 0.3, 'dual_clip': 1.4, 'value_clip': 0.25, 'value_coef': 0.7}


def ppo_by_hand(x, *, clip_low, clip_high, dual_clip, value_clip, value_coef):
  """The weighted terms, token by token: Schulman et al. 2017, eq. 7; Ye et al. 2020, eq. 5; the clipped value error."""
  sums = dict.fromkeys(('policy', 'value', 'clipped', 'k3'), 0.0)
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
      sums['k3'] += ratio - 1 - np.log(ratio)
  means = {name: value / LENGTHS.sum() for name, value in sums.items()}
  return {'policy': 1.0, 'value': value_coef}, means


@pytest.mark.parametrize('dual_clip', [0.0, 1.4])
def test_ppo_is_the_sum_by_hand(precision, dual_clip):
  x = loss_arrays(dtype=precision)
  constants = CONSTANTS | {'dual_clip': dual_clip}
  weights, means = ppo_by_hand(x, **constants)
  assert {name: weight for name, (weight, _) in applied('ppo', loss_inputs(x), **constants)[0].items()} == weights

  def run(x):
    terms, metrics = applied('ppo', loss_inputs(x), **constants)
    return {name: term.mean for name, (_, term) in terms.items()} | {'clipped': metrics['clip_fraction'], 'k3': metrics['kl']}

  rounding.assert_computes(run, (x,), means, roundings=N * T + 10, size=2.0)  # `r - 1 - log r` subtracts what is about 1
  assert 0 < means['clipped'] < 1


# ----------------------------------------------------------------------------------------------------------------- masked


def test_masked_functions_are_numpys_over_the_mask(precision):
  rng = np.random.default_rng(3)
  x = rng.normal(1.0, 2.0, (N, T)).astype(precision)
  real = x[MASK].astype(np.float64)
  hidden, mask = jnp.asarray(np.where(MASK, x, np.nan)), jnp.asarray(MASK)
  white = np.where(MASK, (x.astype(np.float64) - real.mean()) / np.sqrt(real.var() + 1e-8), 0.0)
  for function, wanted in (
    (masked_sum, real.sum()),
    (masked_mean, real.mean()),
    (masked_variance, real.var()),
    (lambda x, mask: token_mean(x, mask).mean, real.mean()),
    (whiten, white),
  ):
    found = rounding.assert_computes(function, (hidden, mask), wanted, roundings=2 * N * T)  # two sums, one after the other
    assert function is not whiten or not np.any(found[~MASK])


def test_masked_functions_of_nothing_are_zero():
  x, nothing = jnp.full((2, 3), jnp.nan), jnp.zeros((2, 3), bool)
  for f in (masked_sum, masked_mean, masked_variance, lambda x, mask: token_mean(x, mask).mean):
    assert f(x, nothing) == 0.0
  assert not np.any(whiten(x, nothing))


def test_explained_variance(precision):
  rng = np.random.default_rng(4)
  values, returns = rng.normal(size=(2, N, T)).astype(precision)
  got = lambda v, r: objectives.explained_variance(jnp.where(MASK, v, jnp.nan), jnp.where(MASK, r, jnp.nan), jnp.asarray(MASK))
  v, r = values[MASK].astype(np.float64), returns[MASK].astype(np.float64)
  assert got(returns, returns) == 1.0
  for predicted, wanted in (
    (values, 1 - (r - v).var() / r.var()),
    (np.full_like(returns, 0.7), 0.0),
    (returns + 3.0, 1.0),  # an offset explains no less
  ):
    rounding.assert_computes(got, (predicted, returns), wanted, roundings=2 * N * T, size=1.0)

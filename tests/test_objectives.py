"""Rewards, advantages and loss terms against plain float64 loops, finite differences and rlax."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rlax

from espo_jax import objectives, rewards
from espo_jax.objectives import LossInputs, gae, masked_mean, masked_sum, masked_variance, ppo, token_mean, whiten
from espo_jax.objectives.terms import clipped_policy, clipped_value, k3
from espo_jax.types import Reward, StopReason, Trajectories

N, T = 7, 12
LENGTHS = np.array([12, 1, 5, 0, 11, 8, 3])
MASK = np.arange(T)[None] < LENGTHS[:, None]


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


# ----------------------------------------------------------------------------------------------------------------- rewards


def trajectories(lengths, reasons, full_lengths=None) -> Trajectories:
  """Rows of which a reward only reads lengths and reasons."""
  count = len(lengths)
  flat, wide = jnp.zeros(count, jnp.int32), jnp.zeros((count, T))
  full = lengths if full_lengths is None else full_lengths
  return Trajectories(
    prompt_tokens=jnp.zeros((count, 2), jnp.int32),
    prompt_lengths=flat,
    tokens=jnp.zeros((count, T), jnp.int32),
    **dict.fromkeys(('logprobs', 'values', 'regret', 'z'), wide),
    length=jnp.asarray(lengths, jnp.int32),
    full_length=jnp.asarray(full, jnp.int32),
    stop_reason=jnp.asarray([int(r) for r in reasons], jnp.int32),
    shadow=jnp.asarray(np.asarray(full) > np.asarray(lengths)),
  )


@pytest.mark.parametrize('dense', [False, True])
def test_token_rewards(dense):
  lengths, full = np.array([4, 12, 1, 6, 12, 3]), np.array([4, 12, 9, 6, 12, 12])
  reasons = [StopReason.EOS, StopReason.LENGTH, StopReason.STOPPED, StopReason.STOPPED, StopReason.STOPPED, StopReason.STOPPED]
  rng = np.random.default_rng(0)
  sequence, along = rng.normal(size=6).astype(np.float32), rng.normal(size=(6, T)).astype(np.float32)
  got = rewards.token_rewards(
    trajectories(lengths, reasons, full), Reward(jnp.asarray(sequence), jnp.asarray(along) if dense else None), fail=-1.5
  )
  for n in range(6):
    for t in range(T):
      wanted = along[n, t] if dense and t < lengths[n] else np.float32(0)
      if t == lengths[n] - 1:
        wanted = wanted + (np.float32(-1.5) if reasons[n] == StopReason.STOPPED else sequence[n])
      assert got[n, t] == wanted, (n, t)


@pytest.mark.parametrize(('low', 'high'), [(0.0, 1.0), (-1.0, 1.0), (-0.5, 2.0)])
def test_correct_scales(low, high):
  verdicts = jnp.asarray([0.0, 1.0, 1.0, 0.0])
  reward = rewards.correct(verdicts, low=low, high=high)
  np.testing.assert_array_equal(reward.sequence, [low, high, high, low])
  assert reward.dense is None
  np.testing.assert_array_equal(rewards.correct(verdicts).sequence, verdicts)


# --------------------------------------------------------------------------------------------------------------------- ppo

CONSTANTS = {'clip_low': 0.15, 'clip_high': 0.3, 'value_clip': 0.25, 'value_coef': 0.7, 'entropy_coef': 0.05, 'kl_coef': 0.2}


def loss_inputs(seed=0, dtype=np.float32) -> dict[str, np.ndarray]:
  """Tokens on all sides of all clips."""
  rng = np.random.default_rng(seed)
  old = -rng.exponential(1.0, (N, T))
  arrays = {
    'logprobs': old + rng.normal(0, 0.3, (N, T)),
    'entropy': rng.exponential(1.0, (N, T)),
    'values': rng.normal(0, 1, (N, T)),
    'old_logprobs': old,
    'reference_logprobs': old + rng.normal(0, 0.5, (N, T)),
    'advantages': rng.normal(0, 1, (N, T)),
    'returns': rng.normal(0, 1, (N, T)),
  }
  arrays['old_values'] = arrays['values'] + rng.normal(0, 0.4, (N, T))
  return {name: x.astype(dtype) for name, x in arrays.items()}


def ppo_by_hand(x, *, clip_low, clip_high, value_clip, value_coef, entropy_coef, kl_coef):
  """The weighted terms, token by token: Schulman et al. 2017, equation 7; the clipped value error; entropy; k3."""
  sums = dict.fromkeys(('policy', 'value', 'entropy', 'reference_kl', 'clipped', 'k3_old'), 0.0)
  for n, length in enumerate(LENGTHS):
    for t in range(length):
      at = {name: float(array[n, t]) for name, array in x.items()}
      ratio = np.exp(at['logprobs'] - at['old_logprobs'])
      inside = min(max(ratio, 1 - clip_low), 1 + clip_high)
      sums['policy'] += -min(ratio * at['advantages'], inside * at['advantages'])
      sums['clipped'] += (ratio > 1 + clip_high and at['advantages'] > 0) or (ratio < 1 - clip_low and at['advantages'] < 0)
      moved = min(max(at['values'], at['old_values'] - value_clip), at['old_values'] + value_clip)
      sums['value'] += 0.5 * max((at['values'] - at['returns']) ** 2, (moved - at['returns']) ** 2)
      sums['entropy'] += at['entropy']
      gap = at['reference_logprobs'] - at['logprobs']
      sums['reference_kl'] += np.exp(gap) - 1 - gap
      sums['k3_old'] += ratio - 1 - np.log(ratio)
  means = {name: value / LENGTHS.sum() for name, value in sums.items()}
  weights = {'policy': 1.0, 'value': value_coef, 'entropy': -entropy_coef, 'reference_kl': kl_coef}
  return weights, means


def loss_of(x: dict, mask, only: str | None = None, **constants):
  terms, _ = ppo(LossInputs(**x, mask=mask), **constants)
  return sum(weight * term.mean for name, (weight, term) in terms.items() if only in (None, name))


def test_ppo_is_the_sum_by_hand():
  x = loss_inputs()
  terms, metrics = ppo(LossInputs(**jax.tree.map(jnp.asarray, x), mask=jnp.asarray(MASK)), **CONSTANTS)
  weights, means = ppo_by_hand(x, **CONSTANTS)
  assert {name: weight for name, (weight, _) in terms.items()} == weights
  for name, (_, term) in terms.items():
    np.testing.assert_allclose(term.mean, means[name], rtol=1e-5)
    np.testing.assert_allclose(metrics[f'loss/{name}'], means[name], rtol=1e-5)
  assert 0 < means['clipped'] < 1
  np.testing.assert_allclose(metrics['clip_fraction'], means['clipped'], rtol=1e-6)
  np.testing.assert_allclose(metrics['kl'], means['k3_old'], rtol=1e-4)


def test_the_reference_has_no_term_without_a_weight():
  x = jax.tree.map(jnp.asarray, loss_inputs())
  terms, _ = ppo(LossInputs(**x, mask=jnp.asarray(MASK)), **CONSTANTS | {'kl_coef': 0.0})
  assert set(terms) == {'policy', 'value', 'entropy'}


@pytest.mark.parametrize('term', ['policy', 'value', 'entropy', 'reference_kl', None])
def test_ppo_gradient_is_that_of_finite_differences(term):
  with jax.enable_x64(True):
    x = jax.tree.map(jnp.asarray, loss_inputs(seed=1, dtype=np.float64))
    fixed = {name: x.pop(name) for name in tuple(x) if name not in ('logprobs', 'entropy', 'values')}
    loss = jax.jit(lambda moving: loss_of(moving | fixed, jnp.asarray(MASK), term, **CONSTANTS))
    gradient = jax.grad(loss)(x)
    eye, step = np.eye(N * T).reshape(N * T, N, T), 1e-6
    for name in x:
      moved = jax.vmap(lambda bump, name=name: loss(x | {name: x[name] + bump}))
      differences = (moved(step * eye) - moved(-step * eye)) / (2 * step)
      assert gradient[name].dtype == jnp.float64
      np.testing.assert_allclose(gradient[name], differences.reshape(N, T), atol=1e-9)
    reads = {'policy': {'logprobs'}, 'value': {'values'}, 'entropy': {'entropy'}, 'reference_kl': {'logprobs'}}
    nonzero = {name for name in x if np.any(gradient[name])}
    assert nonzero == (reads[term] if term else set(x))


def test_terms_of_micro_batches_add_up():
  x, mask = jax.tree.map(jnp.asarray, loss_inputs()), jnp.asarray(MASK)
  whole, _ = ppo(LossInputs(**x, mask=mask), **CONSTANTS)
  parts = [
    ppo(LossInputs(**{k: v[rows] for k, v in x.items()}, mask=mask[rows]), **CONSTANTS)[0]
    for rows in (slice(0, 1), slice(1, 4), slice(4, 7))
  ]
  for name, (_, term) in whole.items():
    added = jax.tree.map(lambda *xs: sum(xs), *[part[name][1] for part in parts])
    np.testing.assert_allclose(added.numerator, term.numerator, rtol=1e-6)
    assert added.denominator == term.denominator == LENGTHS.sum()
    mean_of_means = np.mean([part[name][1].mean for part in parts])
    assert abs(mean_of_means - term.mean) > 1e-3  # which the means do not


def test_ppo_does_not_see_what_the_mask_hides():
  x, mask = jax.tree.map(jnp.asarray, loss_inputs()), jnp.asarray(MASK)
  loss = functools.partial(loss_of, mask=mask, **CONSTANTS)
  clean = jax.value_and_grad(loss)(x)
  for junk in (np.nan, np.inf, -200.0):
    hidden = {name: jnp.where(mask, array, junk) for name, array in x.items()}
    dirty = jax.value_and_grad(loss)(hidden)
    jax.tree.map(np.testing.assert_array_equal, dirty, clean)
    # One array at a time too: a difference of two infinities is not an infinity.
    for name in x:
      jax.tree.map(np.testing.assert_array_equal, jax.value_and_grad(loss)(x | {name: hidden[name]}), clean)


# ----------------------------------------------------------------------------------------------------------- masked and k3


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


def test_k3_estimates_the_divergence():
  """Its mean under the policy is KL(policy || reference), exactly, and it is never negative."""
  rng = np.random.default_rng(5)
  policy, reference = (np.log(rng.dirichlet(np.ones(9), 4)) for _ in range(2))
  with jax.enable_x64(True):
    estimates = np.asarray(k3(jnp.asarray(policy), jnp.asarray(reference)))
  np.testing.assert_allclose((np.exp(policy) * estimates).sum(-1), (np.exp(policy) * (policy - reference)).sum(-1), rtol=1e-12)
  assert (estimates >= 0).all()


def test_terms_by_themselves_do_not_see_what_the_mask_hides():
  x, mask = jax.tree.map(jnp.asarray, loss_inputs()), jnp.asarray(MASK)
  dirty = {name: jnp.where(mask, array, jnp.nan) for name, array in x.items()}
  policy = lambda x: (
    clipped_policy(x['logprobs'], x['old_logprobs'], x['advantages'], mask, clip_low=0.2, clip_high=0.2)[0].mean
  )
  value = lambda x: clipped_value(x['values'], x['old_values'], x['returns'], mask, clip=0.2).mean
  for term in (policy, value):
    clean = jax.value_and_grad(term)(x)
    got = jax.value_and_grad(term)(dirty)
    assert got[0] == clean[0]
    for name in ('logprobs', 'values'):  # what a model's parameters move
      np.testing.assert_array_equal(got[1][name], clean[1][name])


def test_unknown_objective_is_named():
  with pytest.raises(ValueError, match=r"objective\.name = 'pppo' is unknown; known: .*ppo"):
    objectives.get('pppo')

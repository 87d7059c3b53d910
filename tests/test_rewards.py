"""Rewards against golden values, numpy float64 and their limits; how they compose, and what they see of a rollout."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rounding
from loss_cases import T, trajectories

from espo_jax import rewards
from espo_jax.objectives import group_zscore, mean_only
from espo_jax.registry import inputs
from espo_jax.rewards.adacot import prompts_in_need
from espo_jax.rewards.adr_modes import short_serves
from espo_jax.rewards.spa_progress import grounded
from espo_jax.types import Reward, StopReason, Verdicts

P, G = 5, 6
DIGITS = 5e-7  # of a number written with six of them


def call(name, read, **options):
  function = rewards.REGISTRY[name]
  arrays = {key: jnp.asarray(x) if isinstance(x, (np.ndarray, list)) else x for key, x in read.items()}
  return np.asarray(function(*(arrays[key] for key in inputs(function)), **options))


def groups(seed=0, right=0.6, dtype=np.float32):
  """Groups with all, some, one and no right answers."""
  rng = np.random.default_rng(seed)
  correct = (rng.random((P, G)) < right).astype(dtype)
  correct[0], correct[1], correct[2] = 1, 0, 0
  correct[2, 3] = 1
  return {
    'correct': correct,
    'lengths': rng.integers(1, 40, (P, G)).astype(np.int32),
    'horizon': 40,
    'reasoned': rng.random((P, G)) < 0.5,
    'formatted': rng.random((P, G)) < 0.7,
    'ended': rng.random((P, G)) < 0.7,
    'needed': rng.random(P) < 0.5,
    'levels': rng.integers(0, 3, P).astype(np.int32),
    'depth': rng.random((P, G)).astype(dtype),
  }


def standardised(correct, lengths):
  """The size of what a standardised length is rounded in: a group's mean on the scale of its deviation."""
  sizes = [
    1.0 if (ok > 0).sum() < 2 else 1 + n.max() / max(n[ok > 0].std(), 0.1) for ok, n in zip(correct, lengths, strict=True)
  ]
  return np.array(sizes)[:, None]


# ------------------------------------------------------------------------------------------------------------------ placement


@pytest.mark.parametrize('dense', [False, True])
def test_token_rewards(dense):
  lengths, full = np.array([4, 12, 1, 6, 12, 3]), np.array([4, 12, 9, 6, 12, 12])
  reasons = [StopReason.EOS, StopReason.LENGTH, StopReason.STOPPED, StopReason.STOPPED, StopReason.STOPPED, StopReason.STOPPED]
  rng = np.random.default_rng(0)
  sequence, along = rng.normal(size=6).astype(np.float32), rng.normal(size=(6, T)).astype(np.float32)
  got = rewards.token_rewards(
    trajectories(lengths, reasons, full), Reward(jnp.asarray(sequence), jnp.asarray(along) if dense else None), stopped=-1.5
  )
  for n in range(6):
    for t in range(T):
      wanted = along[n, t] if dense and t < lengths[n] else np.float32(0)
      if t == lengths[n] - 1:
        wanted = wanted + (np.float32(-1.5) if reasons[n] == StopReason.STOPPED else sequence[n])
      assert got[n, t] == wanted, (n, t)


# -------------------------------------------------------------------------------------------------------------- correct, hmpo


@pytest.mark.parametrize(('low', 'high'), [(0.0, 1.0), (-1.0, 1.0), (-0.5, 2.0)])
def test_correct_scales(low, high):
  verdicts = jnp.asarray([[0.0, 1.0], [1.0, 0.0]])
  np.testing.assert_array_equal(rewards.correct(verdicts, low=low, high=high), [[low, high], [high, low]])
  np.testing.assert_array_equal(rewards.correct(verdicts), verdicts)


def hmpo_by_hand(correct, lengths, lam=0.8, budget='median', shape='cosine', combine='product', fixed_budget=0.0):
  out = np.zeros(correct.shape)
  for p, (verdicts, row) in enumerate(zip(correct, lengths, strict=True)):
    right = sorted(n for ok, n in zip(verdicts, row, strict=True) if ok > 0)
    if not right:
      continue
    b = {'median': np.median(right), 'mean': np.mean(right), 'fixed': fixed_budget}[budget]
    for g, (ok, n) in enumerate(zip(verdicts, row, strict=True)):
      curve = {'cosine': lambda n, b: np.cos(np.pi * n / (2 * b)) + lam, 'linear': lambda n, b: (b - n) / b + lam}
      token = (1.0 if shape == 'indicator' else np.clip(curve[shape](n, b), 0, 1)) if n <= b else 0.0
      accuracy = float(ok > 0)
      out[p, g] = accuracy * token if combine == 'product' else accuracy + accuracy * token
  return out


@pytest.mark.parametrize(
  'options',
  [
    {},
    {'lam': 0.3},
    {'budget': 'mean'},
    {'combine': 'sum'},
    {'shape': 'linear'},
    {'shape': 'linear', 'lam': 0.0},
    {'budget': 'fixed', 'fixed_budget': 20.0, 'shape': 'indicator'},
  ],
  ids=str,
)
def test_hmpo_is_its_formula_and_so_are_its_arms(precision, options):
  for seed in range(5):
    read = groups(seed, dtype=precision)
    for correct in (read['correct'], 2 * read['correct'] - 1):  # a verdict of -1 is a wrong answer too
      got = rewards.hmpo(jnp.asarray(correct), jnp.asarray(read['lengths']), **options)
      rounding.assert_close(got, hmpo_by_hand(correct, read['lengths'], **options), roundings=G + 10, size=2.0)


def test_hmpos_shape(precision):
  """1 up to 0.872 of the budget, 0.8 at it, 0 beyond; the midpoint is an even count's budget; 0 without right answers."""
  correct = jnp.asarray([[1.0, 1, 1, 1, 0], [0, 0, 0, 0, 0], [0, 1, 0, 0, 0]])
  lengths = jnp.asarray([[100, 872, 1128, 2000, 10], [1, 2, 3, 4, 5], [9, 7, 5, 3, 1]])  # a median of 1000, one of 7
  got = rewards.hmpo(correct, lengths)
  edge = np.cos(np.pi * 0.872 / 2) + 0.8
  rounding.assert_close(got[0], [1.0, edge, 0, 0, 0], roundings=10, size=2.0)
  assert not np.any(got[1])
  rounding.assert_close(got[2], [0, 0.8, 0, 0, 0], roundings=10, size=2.0)
  assert edge == pytest.approx(1.0, abs=2e-3)


# ----------------------------------------------------------------------------------------------------- the reward of each paper


def test_grpo_lambda(precision):
  one = {'correct': np.array([[1.0, 1, 0, 1]], precision), 'lengths': np.array([[100, 200, 400, 300]], np.int32)}
  bounds = DIGITS + rounding.gamma(20, precision) * standardised(one['correct'], one['lengths'])
  rounding.assert_within(call('grpo_lambda', one, alpha=0.2), np.array([[0.954579, 0.9, 0, 0.845421]]), bounds)
  read = groups(dtype=precision)
  np.testing.assert_array_equal(call('grpo_lambda', read, share=0.0), read['correct'])
  assert (call('grpo_lambda', read)[read['correct'] == 0] == 0).all()  # the trap: a short wrong answer earns nothing


@pytest.mark.parametrize(('share', 'count'), [(0.2, 1), (0.21, 2), (0.6, 3), (1.0, 5)])
def test_grpo_lambda_penalises_the_best_groups(precision, share, count):
  correct = np.array([[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0], [1, 1, 1, 0]], precision)
  lengths = np.random.default_rng(0).integers(1, 99, (5, 4)).astype(np.int32)
  got = call('grpo_lambda', {'correct': correct, 'lengths': lengths}, share=share)
  best = np.argsort(-correct.mean(1))[:count]
  for p in range(5):
    right = lengths[p][correct[p] > 0]
    cost = np.zeros(4)
    if p in best and len(right) > 1:
      cost = 0.6 / (1 + np.exp(-(lengths[p] - right.mean()) / max(right.std(), 1e-6)))
    elif p in best:
      cost = np.full(4, 0.3)
    size = standardised(correct[p : p + 1], lengths[p : p + 1])[0]
    rounding.assert_close(got[p], correct[p] * (1 - cost), roundings=20, size=size)  # moments of four, and some operations
  order = np.array([3, 0, 4, 1, 2])
  permuted = call('grpo_lambda', {'correct': correct[order], 'lengths': lengths[order]}, share=share)
  np.testing.assert_array_equal(permuted, got[order])


def test_l_grpo(precision):
  all_right = {'correct': np.ones((1, 4), precision), 'lengths': np.array([[100, 200, 300, 400]], np.int32), 'horizon': 1000}
  for beta in (0.01, 1.0):  # standardised, beta cancels out
    advantages = group_zscore(jnp.asarray(call('l_grpo', all_right, beta=beta)))
    deviation = beta * np.std([0.1, 0.2, 0.3, 0.4])
    wanted = np.array([[1.5, 0.5, -0.5, -1.5]]) / np.sqrt(1.25) * deviation / (deviation + 1e-6)
    rounding.assert_close(advantages, wanted, roundings=20, size=2 / deviation)  # rewards are between 1 and 2
  wanted = 1 + 0.5 * np.array([[0.9, 0.8, 0.7, 0.6]])
  rounding.assert_close(call('l_grpo', all_right, beta=0.5), wanted, roundings=5)
  one_wrong = all_right | {'correct': np.array([[1, 1, 0, 1]], precision)}
  np.testing.assert_array_equal(call('l_grpo', one_wrong), one_wrong['correct'])


def test_tldr(precision):
  read = groups(dtype=precision)
  size = standardised(read['correct'], read['lengths'])
  plain = call('tldr', read, weights=(0.2, 0.2, 0.2))
  alike = call('grpo_lambda', read, share=1.0, alpha=0.2)  # one level: a plain penalty
  rounding.assert_close(plain, alike, roundings=2 * (2 * G + 10), size=size)  # moments of a group, and some operations
  by_level = call('tldr', read, weights=(0.6, 0.3, 0.05))
  for p, level in enumerate(read['levels']):
    alone = {key: read[key][p : p + 1] for key in ('correct', 'lengths', 'levels')}
    wanted = call('tldr', alone, weights=((0.6, 0.3, 0.05)[level],) * 3)[0]
    rounding.assert_close(by_level[p], wanted, roundings=2 * (2 * G + 10), size=size[p])
  np.testing.assert_array_equal(call('tldr', read, weights=(0.0,)), read['correct'])


def test_serial_decay(precision):
  correct = np.array([[0, 1, 0, 1, 1]], precision)
  got = call('serial_decay', {'correct': correct})
  rounding.assert_close(got, [[0, 1, 0, 0.5, 0.25]], roundings=5)
  rounding.assert_close(mean_only(jnp.asarray(got)), [[-0.35, 0.65, -0.35, 0.15, -0.1]], roundings=12, size=1.0)
  np.testing.assert_array_equal(call('serial_decay', {'correct': correct}, base=1.0), correct)


def test_adacot(precision):
  read = groups(dtype=precision)
  got = call('adacot', read, miss_cost=0.3, over_cost=0.2, format_cost=0.7)
  for p in range(P):
    for g in range(G):
      needed, used = read['needed'][p], read['reasoned'][p, g]
      wanted = (
        read['correct'][p, g] - 0.3 * (needed and not used) - 0.2 * (used and not needed) - 0.7 * (not read['formatted'][p, g])
      )
      rounding.assert_close(got[p, g], wanted, roundings=6, size=1 + 0.3 + 0.2 + 0.7)
  free = call('adacot', read, miss_cost=0.0, over_cost=0.0, format_cost=0.0)
  np.testing.assert_array_equal(free, read['correct'])


@pytest.mark.parametrize(('over_cost', 'best'), [(0.05, True), (0.25, False)])
def test_adacot_reasons_where_that_gains_more_than_it_costs(over_cost, best):
  """A prompt that needs no reasoning, and gains 0.1 of accuracy from it: the better policy flips with the cost."""
  gains = {used: 0.8 + 0.1 * used for used in (False, True)}
  values = {
    used: float(
      call(
        'adacot',
        {
          'correct': np.array([[gain]], np.float32),
          'reasoned': np.array([[used]]),
          'needed': np.array([False]),
          'formatted': np.array([[True]]),
        },
        over_cost=over_cost,
      )[0, 0]
    )
    for used, gain in gains.items()
  }
  assert max(values, key=values.get) is best


def test_prompts_in_need():
  correct = jnp.asarray([[1.0, 1, 0, 0], [0, 0, 1, 1], [1, 1, 1, 1], [1, 0, 0, 0]])
  reasoned = jnp.asarray([[True, True, False, False], [True, True, False, False], [True] * 4, [False] * 4])
  np.testing.assert_array_equal(prompts_in_need(correct, reasoned), [True, False, True, True])


def test_adr_modes():
  reasoned = np.array([[True, True, False, False]] * 4)
  correct = np.array([[1, 0, 1, 0], [1, 1, 0, 0], [0, 0, 1, 1], [1, 1, 1, 0]], np.float32)
  seen = {'correct': jnp.asarray(correct), 'reasoned': jnp.asarray(reasoned)}
  for options, wanted in (({'delta': 0.05}, [True, False, True, False]), ({'delta': 0.5}, [True, False, True, True])):
    np.testing.assert_array_equal(short_serves(*seen.values(), **options), wanted)
    np.testing.assert_array_equal(rewards.extras(seen, options | {'rho': 0.1})['prefers_short'], wanted)  # what the loss reads
  got = call('adr_modes', {'correct': correct, 'reasoned': reasoned}, rho=0.5)
  np.testing.assert_allclose(got, [[0.5, 0, 1, 0], [1, 1, 0, 0], [0, 0, 1, 1], [1, 1, 0.5, 0]])
  np.testing.assert_array_equal(call('adr_modes', {'correct': correct, 'reasoned': reasoned}, rho=0.0), correct)


def test_abstain_aware(precision):
  read = {'correct': np.array([[1, 0, 1, 0]], precision), 'ended': np.array([[True, True, False, False]])}
  np.testing.assert_allclose(call('abstain_aware', read, kappa=0.5), [[1, -0.5, 0, 0]])
  for kappa in (0.5, 1.0, 3.0):  # at the break-even confidence answering is worth what silence is
    confidence = kappa / (1 + kappa)
    answer = {'correct': np.array([[confidence]], precision), 'ended': np.array([[True]])}
    rounding.assert_close(call('abstain_aware', answer, kappa=kappa), [[0.0]], roundings=4, size=1 + kappa)


def test_overlong(precision):
  """DAPO: nothing up to 16384 tokens, -1 at 20480."""
  lengths = np.array([[1, 16384, 18432, 20480]], np.int32)
  got = call('overlong', {'lengths': lengths, 'horizon': 20480})
  rounding.assert_close(got, [[0, 0, -0.5, -1]], roundings=5, size=1.0)


def test_format_and_depth(precision):
  read = groups(dtype=precision)
  np.testing.assert_array_equal(call('format', read), read['formatted'])
  rounding.assert_close(call('exit_depth_cost', read, cost=0.3), -0.3 * read['depth'].astype(np.float64), roundings=2)


def spa_case(lengths, width=10, seed=0, dtype=np.float32):
  rng = np.random.default_rng(seed)
  mask = np.arange(width) < np.asarray(lengths)[..., None]
  return {
    'correct': rng.integers(0, 2, mask.shape[:2]).astype(dtype),
    'formatted': rng.random(mask.shape[:2]) < 0.5,
    'values': rng.normal(size=mask.shape).astype(dtype),
    'mask': mask,
    'turn': np.where(mask, 0, -1),
    'paid': np.where(mask, 0.25, 0).astype(dtype),
  }


@pytest.mark.parametrize(('alpha', 'beta'), [(1.0, 0.0), (0.7, 0.2)])
def test_spa_progress(precision, alpha, beta):
  read = spa_case([[10, 8, 4, 1], [9, 3, 7, 5]], dtype=precision)
  got = call('spa_progress', read, segment=4, alpha=alpha, beta=beta)
  for p, g in np.ndindex(2, 4):
    length, values = read['mask'][p, g].sum(), read['values'][p, g].astype(np.float64)
    wanted, size, before = np.zeros(10), np.zeros(10), 0.0
    ends = sorted({*range(3, length, 4), length - 1})
    for end in ends:
      reached = read['correct'][p, g] if end == length - 1 else values[end + 1]
      wanted[end] = alpha * (reached - before) + beta * read['formatted'][p, g]
      size[end] = abs(reached) + abs(before) + beta
      before = reached
    rounding.assert_close(got[p, g], wanted, roundings=5, size=size)
    if not beta:  # nothing is lost or won
      rounding.assert_close(got[p, g].sum(), alpha * read['correct'][p, g], roundings=5 + 10, size=size.sum())


def test_spa_progress_pays_the_turns_of_an_episode(precision):
  read = spa_case([[12, 12, 12, 12], [12, 12, 12, 12]], width=12, dtype=precision)
  turn = np.array([0, 0, -1, 1, 1, 1, -1, -1, 2, -1, -1, -1])  # three turns, with observations between them
  read |= {'turn': np.broadcast_to(turn, (2, 4, 12)), 'mask': np.broadcast_to(turn >= 0, (2, 4, 12))}
  got = call('spa_progress', read, segment=0)
  wanted = np.zeros((2, 4, 12))
  values = read['values'].astype(np.float64)
  wanted[..., 1], wanted[..., 5] = values[..., 3], values[..., 8] - values[..., 3]  # what the next turn begins with
  wanted[..., 8] = read['correct'] - values[..., 8]
  rounding.assert_close(got, wanted, roundings=5, size=np.abs(values).max() * 2 + 1)
  summed, _ = rewards.evaluate('spa_progress + correct', {'segment': 0}, {k: jnp.asarray(x) for k, x in read.items()})
  rounding.assert_close(summed.sum(axis=2), 2 * read['correct'], roundings=30, size=np.abs(values).max() * 6 + 2)


def test_grounded(precision):
  got = grounded(jnp.asarray([0.1, 0.4, 0.2]), jnp.asarray([True, False, True]), alpha=1.0, beta=0.5)
  rounding.assert_close(got, [0.6, 0.4, 0.7], roundings=4)


# ---------------------------------------------------------------------------------------------------------------- composition


def test_expressions(precision):
  read = {key: jnp.asarray(x) if isinstance(x, np.ndarray) else x for key, x in groups(dtype=precision).items()}
  alone = {name: call(name, groups(dtype=precision)) for name in ('correct', 'hmpo', 'overlong', 'format', 'tldr')}
  gate = np.asarray(read['formatted'])
  for expression, wanted in (
    ('hmpo', alone['hmpo']),
    ('correct + overlong', alone['correct'] + alone['overlong']),
    ('correct + 0.5 * overlong', alone['correct'] + 0.5 * alone['overlong']),
    ('hmpo * format', alone['hmpo'] * gate),
    ('hmpo & format', np.where(gate, alone['hmpo'], 0)),
    ('(tldr + overlong) & format', np.where(gate, alone['tldr'] + alone['overlong'], 0)),
    ('2 * hmpo', 2 * alone['hmpo']),
  ):
    value, by_name = rewards.evaluate(expression, {}, read)
    rounding.assert_close(value, wanted, roundings=4, size=2.0)
    for name, x in by_name.items():
      np.testing.assert_array_equal(x, alone[name])
  low, _ = rewards.evaluate('correct + hmpo', {'low': -1.0, 'lam': 0.3}, read)
  wanted = (2 * alone['correct'] - 1) + call('hmpo', groups(dtype=precision), lam=0.3)
  rounding.assert_close(low, wanted, roundings=4, size=2.0)


def test_expressions_on_tokens(precision):
  case = spa_case([[10, 8, 4, 1], [9, 3, 7, 5]], dtype=precision)
  read = {key: jnp.asarray(x) for key, x in case.items()}
  spa = call('spa_progress', case)
  last = case['mask'] & ~np.pad(case['mask'][:, :, 1:], ((0, 0), (0, 0), (0, 1)))
  summed, _ = rewards.evaluate('spa_progress + 0.5 * correct', {}, read)
  wanted = spa + 0.5 * np.where(last, case['correct'][..., None], 0)
  rounding.assert_close(summed, wanted, roundings=4, size=np.abs(spa) + 0.5)
  for expression in ('spa_progress + 0.5', '0.5 + spa_progress'):  # a number is paid once per row, and not for each token
    shifted, by_name = rewards.evaluate(expression, {}, read)
    rounding.assert_close(shifted, spa + 0.5 * last, roundings=4, size=np.abs(spa) + 0.5)
    rounding.assert_close(by_name['spa_progress'], spa.sum(axis=2), roundings=16, size=np.abs(spa).sum(axis=2))
  for expression in ('spa_progress & format', 'format * spa_progress'):
    gated, _ = rewards.evaluate(expression, {}, read)
    np.testing.assert_array_equal(gated, np.where(case['formatted'][..., None], spa, 0))


@pytest.mark.parametrize(
  ('expression', 'message'),
  [
    ('hmppo', r"reward\.name = 'hmppo': 'hmppo' is unknown; did you mean 'hmpo'\?"),
    ('hmpo +', 'fix: names of rewards joined by'),
    ('', 'fix: names of rewards joined by'),
    ('1.0', 'not understood'),
    ('hmpo - correct', 'not understood'),
    ('hmpo.lam', 'not understood'),
    ('hmpo(1)', 'not understood'),
    ("hmpo + 'x'", 'not understood'),
    ('hmpo * True', 'not understood'),
  ],
)
def test_what_is_no_expression_is_refused(expression, message):
  with pytest.raises(ValueError, match=message):
    rewards.names(expression)


# ------------------------------------------------------------------------------------------------------- what rewards are shown


def test_a_stopped_row_is_wrong_and_gave_no_answer():
  reasons = [StopReason.EOS, StopReason.LENGTH, StopReason.STOPPED, StopReason.STOPPED, StopReason.EOS, StopReason.EOS]
  rows = trajectories([3, 12, 5, 2, 7, 1], reasons, [3, 12, 12, 2, 7, 1])
  flags = np.array([True, True, True, False, True, False])
  nothing = jnp.zeros(6, bool)
  verdicts = Verdicts(
    jnp.ones(6), jnp.asarray(flags), jnp.asarray(~flags), jnp.asarray([2, 2, 2, 1, 1, 1]), timeout=nothing, error=nothing
  )
  seen = rewards.observed(rows, verdicts, 3, 4)
  np.testing.assert_array_equal(seen['correct'], [[1, 1, 0], [0, 1, 1]])  # a shadow's verdict is for measurement only
  np.testing.assert_array_equal(seen['lengths'], [[3, 12, 5], [2, 7, 1]])
  np.testing.assert_array_equal(seen['ended'], [[True, False, False], [False, True, True]])
  np.testing.assert_array_equal(seen['formatted'], [[True, False, False], [False, True, False]])
  np.testing.assert_array_equal(seen['levels'], [2, 1])
  assert seen['horizon'] == T
  wanted = hmpo_by_hand(*map(np.asarray, (seen['correct'], seen['lengths'])))
  rounding.assert_close(rewards.hmpo(seen['correct'], seen['lengths']), wanted, roundings=10, size=2.0)
  assert {name for function in rewards.REGISTRY.values() for name in inputs(function)} <= seen.keys()
  assert seen.keys() == rewards.SEEN.keys() | {'scores'}


def test_rewards_are_jittable_and_have_one_shape():
  tokens = np.zeros((P, G, 8))
  read = {**groups(), 'values': tokens.astype(np.float32), 'paid': tokens.astype(np.float32)}
  read |= {'mask': tokens == 0, 'turn': tokens.astype(np.int32)}
  horizon = read.pop('horizon')
  for name in rewards.REGISTRY:
    value = jax.jit(lambda read, name=name: rewards.evaluate(name, {}, read | {'horizon': horizon})[0])(read)
    assert value.shape[:2] == (P, G) and value.dtype == jnp.float32 and np.isfinite(value).all(), name

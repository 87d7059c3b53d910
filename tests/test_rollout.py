"""The engine against a teacher-forced pass, a float64 replay of the rule, and itself under all that must not matter."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rounding
import scipy.stats
from rollouts import (
  CLIP,
  DELTA,
  EOS,
  EPSILON,
  HORIZON,
  NEVER,
  PAD,
  PROMPTS,
  RULE,
  SMOOTHING,
  STATE,
  WIDTH,
  G,
  P,
  assert_same_rows,
  limits_for,
  limits_of,
  model_of,
  run,
)
from small import VOCAB

from espo_jax import learner, rollout, stops
from espo_jax.model import apply
from espo_jax.stops import StopRule
from espo_jax.types import StopReason


def written(rows) -> np.ndarray:
  return np.arange(rows.tokens.shape[1]) < rows.full_length[:, None]


def teacher_forced(variant, rows) -> np.ndarray:
  """The logits that each response token was drawn from, float64, by a pass without a cache over each row as it stands."""
  model, params = model_of(variant)
  out = np.zeros((*rows.tokens.shape, VOCAB))
  forward = jax.jit(apply, static_argnums=0)
  for n, length in enumerate(rows.prompt_lengths):  # right-padded here, where the engine pads left
    whole = np.concatenate([rows.prompt_tokens[n, WIDTH - length :], rows.tokens[n], np.zeros(WIDTH - length, np.int32)])
    out[n] = forward(model.config, params['policy'], jnp.asarray(whole[None]))[0, length - 1 : length - 1 + HORIZON]
  return out


def log_softmax(x):
  x = x - x.max(-1, keepdims=True)
  return x - np.log(np.exp(x).sum(-1, keepdims=True))


def picked(x, tokens):
  return np.take_along_axis(x, tokens[..., None], -1)[..., 0]


usual = rounding.cached(run)


@pytest.fixture(params=[('shared', 'float32'), ('separate', 'float64')], ids=lambda pair: '-'.join(pair))
def sampled(request):
  variant, dtype = request.param
  with rounding.computed_in(dtype):
    rows = usual(variant=variant)
    assert rows.logprobs.dtype == rows.values.dtype == dtype
    assert set(rows.stop_reason) == {StopReason.LENGTH, StopReason.EOS, StopReason.STOPPED}
    assert 0 < rows.shadow.sum() < (rows.stop_reason == StopReason.STOPPED).sum()
    yield variant, rows


# -------------------------------------------------------------------------------------------- what was recorded is what was


def test_recorded_log_probabilities_and_values_are_the_learners(sampled):
  variant, rows = sampled
  model, params = model_of(variant)
  scored = jax.jit(functools.partial(learner.score, model, temperature=1.0, chunk=10_000))(
    params, *map(jnp.asarray, (rows.prompt_tokens, rows.prompt_lengths, rows.tokens))
  )
  real, limits = written(rows), limits_of(variant)
  for name in ('logprobs', 'values'):
    np.testing.assert_allclose(getattr(rows, name)[real], getattr(scored, name)[real], rtol=0, atol=limits[name])


@pytest.mark.parametrize('temperature', [1.0, 0.6])
def test_log_probabilities_and_regret_are_those_of_the_tempered_logits(sampled, temperature):
  variant, rows = sampled
  rows = rows if temperature == 1.0 else usual(variant=variant, temperature=temperature)
  logprobs, real = log_softmax(teacher_forced(variant, rows) / temperature), written(rows)
  chosen, limits = picked(logprobs, rows.tokens), limits_for(*model_of(variant), rows, temperature)
  np.testing.assert_allclose(rows.logprobs[real], chosen[real], rtol=0, atol=limits['logprobs'])
  np.testing.assert_allclose(rows.regret[real], (logprobs.max(-1) - chosen)[real], rtol=0, atol=limits['regret'])


def test_after_a_row_stand_pad_tokens_and_zeros(sampled):
  _, rows = sampled
  after = ~written(rows)
  assert after.any()
  assert (rows.tokens[after] == PAD).all()
  for name in ('logprobs', 'values', 'regret', 'z'):
    assert not np.any(getattr(rows, name)[after]), name


def test_prompts_are_group_major(sampled):
  _, rows = sampled
  np.testing.assert_array_equal(rows.prompt_tokens, np.repeat(PROMPTS.tokens, G, axis=0))
  np.testing.assert_array_equal(rows.prompt_lengths, np.repeat(PROMPTS.lengths, G))


# ------------------------------------------------------------------------------------------------------ how each row ended


def test_z_and_endings_are_a_float64_replay(sampled):
  """From the regret and the values recorded, so that what is between is the rule's own arithmetic: five roundings a token."""
  _, rows = sampled
  mu, var, beta = float(STATE.mu), float(STATE.var), float(STATE.beta)
  limit = rounding.gamma(5 * HORIZON, rows.z.dtype) * CLIP
  for n in range(P * G):
    z, length, reason = 0.0, None, StopReason.LENGTH
    for t in range(rows.full_length[n]):
      normalised = np.clip((float(rows.regret[n, t]) - mu) / np.sqrt(var + DELTA), -CLIP, CLIP)
      z = SMOOTHING * z + (1 - SMOOTHING) * normalised
      assert abs(rows.z[n, t] - z) < limit
      if length is None:
        margin = z - beta * max(float(rows.values[n, t]), EPSILON)
        assert abs(margin) > 2 * limit  # no tie in these rows: the decision is the float64 one
        if rows.tokens[n, t] == EOS:
          length, reason = t + 1, StopReason.EOS
        elif margin > 0:
          length, reason = t + 1, StopReason.STOPPED
    assert rows.length[n] == (HORIZON if length is None else length)
    assert rows.stop_reason[n] == reason


def test_a_row_goes_on_past_its_length_only_as_a_shadow(sampled):
  _, rows = sampled
  for n in range(P * G):
    tail = rows.tokens[n, rows.length[n] : rows.full_length[n]]
    if rows.shadow[n]:
      assert rows.stop_reason[n] == StopReason.STOPPED
      assert EOS not in tail[:-1]
      assert rows.full_length[n] == HORIZON or tail[-1] == EOS
    else:
      assert len(tail) == 0
  assert (rows.full_length > rows.length).any()


def test_the_end_token_is_kept_with_its_log_probability(sampled):
  variant, rows = sampled
  logprobs = log_softmax(teacher_forced(variant, rows))
  for n in np.flatnonzero(rows.stop_reason == StopReason.EOS):
    last = rows.length[n] - 1
    assert rows.tokens[n, last] == EOS and EOS not in rows.tokens[n, :last]
    assert rows.logprobs[n, last] < 0
    assert abs(rows.logprobs[n, last] - logprobs[n, last, EOS]) < limits_of(variant)['logprobs']


def test_an_end_token_beats_a_stop_on_the_same_token():
  always = run(state=STATE.replace(beta=jnp.float32(-1e6)), shadow=0.0)
  first = run(rule=NEVER).tokens[:, 0]
  np.testing.assert_array_equal(always.tokens[:, 0], first)
  np.testing.assert_array_equal(always.full_length, 1)
  np.testing.assert_array_equal(always.stop_reason, np.where(first == EOS, StopReason.EOS, StopReason.STOPPED))
  assert set(always.stop_reason) == {StopReason.EOS, StopReason.STOPPED}


# --------------------------------------------------------------------------------------------------------- what may not matter


def test_a_sample_does_not_depend_on_its_row(in_float64):
  order = np.array([4, 2, 0, 5, 3, 1])
  shuffled = run(prompts=jax.tree.map(lambda x: x[order], PROMPTS))
  rows = (order[:, None] * G + np.arange(G)).reshape(-1)
  assert_same_rows(run(), shuffled, rows)


def test_a_sample_does_not_depend_on_the_other_rows(in_float64):
  others = PROMPTS.replace(
    tokens=np.where(np.arange(P)[:, None] == 2, PROMPTS.tokens, PROMPTS.tokens[::-1]),
    lengths=np.where(np.arange(P) == 2, PROMPTS.lengths, PROMPTS.lengths[::-1]),
    ids=np.where(np.arange(P) == 2, PROMPTS.ids, PROMPTS.ids + np.uint32(1)),
  )
  mine = slice(2 * G, 3 * G)
  one, two = run(), run(prompts=others)
  assert_same_rows(one, two, mine, mine)
  assert not np.array_equal(one.tokens[: 2 * G], two.tokens[: 2 * G])


def test_a_sample_does_not_depend_on_the_number_of_prompts(in_float64):
  assert_same_rows(run(), run(prompts=jax.tree.map(lambda x: x[2:4], PROMPTS)), slice(2 * G, 4 * G))


def test_a_sample_does_not_depend_on_the_number_of_samples(in_float64):
  more = run(samples=G + 2)
  assert_same_rows(run(), more, slice(None), np.arange(P * (G + 2)).reshape(P, G + 2)[:, :G].reshape(-1))


@pytest.mark.parametrize('seed', range(4))
def test_a_sample_does_not_depend_on_slots_scan_order_or_company(seed, in_float64):
  """Random shapes of the program. Tokens to the bit; rounding may differ where a product has another number of rows."""
  rng = np.random.default_rng(seed)
  chosen = rng.permutation(P)[: rng.integers(2, P + 1)]
  slots, scan, samples = rng.integers(1, P * G), rng.integers(1, HORIZON + 4), rng.integers(1, G + 1)
  variant = ('shared', 'separate')[seed % 2]
  some = run(
    variant=variant,
    prompts=jax.tree.map(lambda x: x[chosen], PROMPTS),
    slots=int(slots),
    scan=int(scan),
    samples=int(samples),
  )
  rows = (chosen[:, None] * G + np.arange(samples)).reshape(-1)
  assert_same_rows(usual(variant=variant), some, rows, limits=limits_of(variant))


@pytest.mark.parametrize('slots', [1, 3, 5])
def test_slots_are_taken_as_in_greedy_list_scheduling(slots):
  """Rows in their order, each on the first slot that is free: what can be done without knowing lengths."""
  rows = run(rule=NEVER, slots=slots, scan=7)
  free_at = [0] * slots
  for n, length in enumerate(rows.full_length):
    first = free_at.index(min(free_at))
    assert rows.started[n] == free_at[first]
    free_at[first] += length


@pytest.mark.parametrize('every', [1, 2, 5])
def test_between_readings_of_the_critic_the_rule_sees_its_last_value(every):
  level = -0.05  # stops where V < 0.05, whatever the regret
  rule = stops.value_only(beta_0=level)
  state = STATE.replace(beta=jnp.float32(level))
  rows = run(variant='separate', rule=rule, state=state, shadow=1.0, critic_every=every, slots=4, scan=10)
  model, params = model_of('separate')
  scored = jax.jit(functools.partial(learner.score, model, temperature=1.0, chunk=10_000))(
    params, *map(jnp.asarray, (rows.prompt_tokens, rows.prompt_lengths, rows.tokens))
  )
  limit = limits_of('separate')['values']
  np.testing.assert_allclose(rows.values[written(rows)], np.asarray(scored.values)[written(rows)], rtol=0, atol=limit)
  assert rows.shadow.any() and not rows.shadow.all()
  for n in range(P * G):
    seen = [float(scored.values[n, t - t % every]) for t in range(rows.full_length[n])]
    below = [t for t, value in enumerate(seen) if value < -level and rows.tokens[n, t] != EOS]
    assert min(abs(value + level) for value in seen) > limit  # no tie
    assert rows.length[n] == (below[0] + 1 if below else rows.full_length[n])


def test_a_rule_that_is_used_without_a_training_stops_rows():
  free = run(state=stops.adaptive(RULE, enabled=False))
  regret = free.regret[written(free)]
  acting = run(state=stops.adaptive(RULE, mu=regret.mean(), var=regret.var()).replace(beta=STATE.beta))
  assert not (free.stop_reason == StopReason.STOPPED).any()
  assert 0 < (acting.stop_reason == StopReason.STOPPED).sum() < P * G


def test_samples_differ_by_sample_prompt_and_step():
  rows = run(rule=NEVER)
  for p in range(P):
    assert len({row.tobytes() for row in rows.tokens[p * G : (p + 1) * G]}) == G
  same = PROMPTS.replace(tokens=PROMPTS.tokens[[0] * P], lengths=PROMPTS.lengths[[0] * P])
  assert len({group.tobytes() for group in run(rule=NEVER, prompts=same).tokens.reshape(P, -1)}) == P  # one prompt, six ids
  other = run(rule=NEVER, key=8)
  assert not (rows.tokens == other.tokens).all(1).any()


def test_espo_that_cannot_fire_is_never(in_float64):
  silent = run(state=STATE.replace(beta=jnp.float32(1e6)))
  never = run(rule=NEVER)
  assert not (silent.stop_reason == StopReason.STOPPED).any()
  for name in ('tokens', 'length', 'full_length', 'stop_reason'):
    np.testing.assert_array_equal(getattr(silent, name), getattr(never, name))
  for name in ('logprobs', 'values', 'regret'):
    np.testing.assert_allclose(getattr(silent, name), getattr(never, name), rtol=0, atol=limits_of()[name])
  assert not np.any(never.z)


def test_shadow_rows_change_nothing_but_the_continuation(in_float64):
  none, all_, never = run(shadow=0.0), run(shadow=1.0), run(rule=NEVER)
  stopped = none.stop_reason == StopReason.STOPPED
  assert not none.shadow.any()
  np.testing.assert_array_equal(all_.shadow, stopped)
  np.testing.assert_array_equal(none.full_length, none.length)
  np.testing.assert_array_equal(none.length, all_.length)
  np.testing.assert_array_equal(none.stop_reason, all_.stop_reason)
  counted = np.arange(HORIZON) < none.length[:, None]
  np.testing.assert_array_equal(none.tokens, np.where(counted, all_.tokens, PAD))
  np.testing.assert_array_equal(all_.tokens, never.tokens)  # a shadow row is what the row would have been
  np.testing.assert_array_equal(all_.full_length, never.length)
  np.testing.assert_allclose(all_.logprobs, never.logprobs, rtol=0, atol=limits_of()['logprobs'])
  some = run(shadow=0.5)
  np.testing.assert_array_equal(some.tokens, np.where(some.shadow[:, None], all_.tokens, none.tokens))


def test_a_disabled_rule_stops_nothing_and_still_records_z(in_float64):
  off = run(state=STATE.replace(enabled=jnp.asarray(False)))
  assert not (off.stop_reason == StopReason.STOPPED).any()
  np.testing.assert_array_equal(off.tokens, run(rule=NEVER).tokens)
  np.testing.assert_allclose(off.z, run(shadow=1.0).z, rtol=0, atol=limits_of()['z'])


# --------------------------------------------------------------------------------------------------------------- sampling


def test_greedy_takes_the_likeliest_token():
  rows = run(rule=NEVER, temperature=0.0)
  logits, real = teacher_forced('shared', rows), written(rows)
  np.testing.assert_array_equal(rows.tokens[real], logits.argmax(-1)[real])
  wanted, limit = picked(log_softmax(logits), rows.tokens), limits_of()['logprobs']
  np.testing.assert_allclose(rows.logprobs[real], wanted[real], rtol=0, atol=limit)
  assert not np.any(rows.regret)
  np.testing.assert_array_equal(rows.tokens, np.repeat(rows.tokens[::G], G, axis=0))


@pytest.mark.parametrize('temperature', [1.0, 0.7])
def test_first_tokens_follow_the_softmax(temperature):
  model, params = model_of('shared')
  prompt = jax.tree.map(lambda x: x[:1], PROMPTS)
  logits = np.asarray(
    jax.jit(apply, static_argnums=0)(model.config, params['policy'], jnp.asarray(prompt.tokens))[0, -1], np.float64
  )
  rows = run(rule=NEVER, prompts=prompt, samples=4000, temperature=temperature, scan=1, horizon=1)
  counts = np.bincount(rows.tokens[:, 0], minlength=VOCAB)
  law = lambda t: np.exp(log_softmax(logits / t)) * 4000
  assert law(temperature).min() > 0.3
  assert scipy.stats.chisquare(counts, law(temperature)).pvalue > 1e-3
  assert scipy.stats.chisquare(counts, law(1.3 * temperature)).pvalue < 1e-6  # the test would see a wrong temperature
  wanted, limit = log_softmax(logits / temperature)[rows.tokens[:, 0]], limits_of()['logprobs'] / temperature
  np.testing.assert_allclose(rows.logprobs[:, 0], wanted, rtol=0, atol=limit)


def test_the_regret_recorded_is_what_the_stop_room_says(monkeypatch):
  """Another definition there is another one here, for the record and for the rule; each rule is a program of its own."""

  def seeing():
    return NEVER._replace(update=lambda state, seen: (state, jnp.zeros(seen.regret.shape, bool), seen.regret))

  plain, surrogate_regret = run(rule=seeing()), stops.surrogate_regret
  monkeypatch.setattr(stops, 'surrogate_regret', lambda logits, tokens: 2 * surrogate_regret(logits, tokens))
  doubled = run(rule=seeing())
  assert plain.regret.any()
  np.testing.assert_array_equal(doubled.tokens, plain.tokens)
  np.testing.assert_array_equal(doubled.regret, 2 * plain.regret)
  np.testing.assert_array_equal(doubled.z, doubled.regret)


def test_another_value_of_a_sampling_option_compiles_nothing():
  run(rule=NEVER, temperature=0.9)
  compiled = rollout.generate._cache_size()
  run(rule=NEVER, temperature=0.4)
  assert rollout.generate._cache_size() == compiled


# ------------------------------------------------------------------------------------------------------------ saved seconds


def test_the_loop_ends_with_the_last_row():
  """Decode steps executed: as many as the longest row has tokens, whatever the horizon and the scan's length."""
  executed = []

  def update(state, obs):
    jax.debug.callback(lambda: executed.append(1))
    count = state.z + 1
    return state.replace(z=count), count >= state.adaptive.beta, count

  counting = StopRule(NEVER.init, update, NEVER.threshold, NEVER.adapt)
  for tokens in (3, 8, 9, 100):
    executed.clear()
    rows = run(rule=counting, state=STATE.replace(beta=jnp.float32(tokens)), shadow=0.0)
    jax.effects_barrier()
    assert len(executed) == rows.full_length.max() == min(tokens, HORIZON)

"""The serial rollout: early exits against the response they are cut from, a pass without a cache, and what must not matter."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rounding
import scipy.stats
from rollouts import (
  EOS,
  HORIZON,
  NEVER,
  PAD,
  PROMPTS,
  STATE,
  WIDTH,
  P,
  assert_same_rows,
  in_precision,
  limits_for,
  limits_of,
  model_of,
  on_mesh,
  run,
)
from small import VOCAB

from espo_jax import learner, rollout
from espo_jax.model import apply, refill_rows
from espo_jax.rollout.serial import cut_positions, thinking_tokens
from espo_jax.stages import metrics
from espo_jax.types import Prompts, StopReason

EACH_IN_ONE = pytest.mark.parametrize(
  ('variant', 'precision'), [('shared', 'float32'), ('separate', 'float64')], indirect=['precision']
)

INDUCER, ANSWER, THOUGHT, G, SLOTS = (5, 6, 7), 4, 3, 4, 5
EXITS = G - 1
SERIAL = {'shared': rollout.Serial(INDUCER, ANSWER), 'separate': rollout.Serial(INDUCER, ANSWER, THOUGHT)}


def generate(variant='shared', prompts=PROMPTS, *, samples=G, slots=SLOTS, horizon=HORIZON, end_tokens=(EOS,)):
  model, params = model_of(variant)
  prompts = jax.tree.map(jnp.asarray, prompts)
  options = {'serial': SERIAL[variant], 'scan_length': 8, 'pad_token': PAD, 'end_tokens': end_tokens}
  rows = rollout.generate_serial(
    model,
    params,
    NEVER,
    in_precision(STATE),
    prompts,
    jax.random.key(7),
    samples=samples,
    horizon=horizon,
    slots=slots,
    **options,
  )
  return jax.device_get(rows)


@rounding.cached
def usual(variant='shared'):
  return generate(variant)


@rounding.cached
def with_more_exits():
  return generate(samples=G + 2, slots=0)


@pytest.fixture(params=['shared', 'separate'])
def sampled(request, in_float64):
  rows = usual(request.param)
  assert set(rows.stop_reason) == {StopReason.LENGTH, StopReason.EOS}
  return request.param, rows


def is_early(rows, samples=G) -> np.ndarray:
  return np.arange(rows.length.shape[0]) % samples < samples - 1


# --------------------------------------------------------------------------------------------------------- what rows are


def test_the_last_of_a_group_is_the_response_that_nobody_cut(sampled):
  variant, rows = sampled
  whole = run(variant=variant, rule=NEVER, samples=1, shadow=0.0)
  assert_same_rows(whole, rows, which_two=slice(EXITS, None, G), limits=limits_of(variant))
  np.testing.assert_array_equal(rows.trained_from[EXITS::G], 0)


def test_an_early_exit_is_a_beginning_of_the_response_the_inducer_and_an_answer(sampled):
  _, rows = sampled
  for n in np.flatnonzero(is_early(rows)):
    path, start, end = n // G * G + EXITS, rows.trained_from[n], rows.length[n]
    cut = start - len(INDUCER)
    np.testing.assert_array_equal(rows.tokens[n, :cut], rows.tokens[path, :cut])
    assert tuple(rows.tokens[n, cut:start]) == INDUCER
    answer = rows.tokens[n, start:end]
    assert EOS not in answer[:-1]
    if rows.stop_reason[n] == StopReason.EOS:
      assert answer[-1] == EOS
    else:
      assert len(answer) == ANSWER
    assert (rows.tokens[n, end:] == PAD).all()
  np.testing.assert_array_equal(rows.full_length, rows.length)


def test_the_early_exits_stand_in_the_order_of_their_cuts(sampled):
  _, rows = sampled
  cuts = rows.trained_from.reshape(P, G)[:, :EXITS]
  assert (np.diff(cuts, axis=1) >= 0).all()
  assert (np.diff(cuts, axis=1) > 0).any()


def test_only_what_a_row_sampled_counts(sampled):
  _, rows = sampled
  for n in range(P * G):
    wanted = [rows.trained_from[n] <= t < rows.length[n] for t in range(HORIZON)]
    np.testing.assert_array_equal(rows.mask[n], wanted)
  for name in ('logprobs', 'values', 'regret', 'z'):
    assert not np.any(getattr(rows, name)[~np.asarray(rows.mask)]), name


# ---------------------------------------------------------------------------------------------------- the cache is used again


@EACH_IN_ONE
def test_a_copied_prefix_gives_what_a_pass_without_a_cache_gives(variant, precision):
  """Distributions are compared where the rollout records them: the token's own log-probability, and how far the best is off."""
  rows = usual(variant)
  model, params = model_of(variant)
  mask = np.asarray(rows.mask)
  scored = jax.jit(functools.partial(learner.score, model, temperature=1.0, chunk=10_000))(
    params, *map(jnp.asarray, (rows.prompt_tokens, rows.prompt_lengths, rows.tokens))
  )
  limits = limits_for(model, params, rows)
  for name in ('logprobs', 'values'):
    np.testing.assert_allclose(getattr(rows, name)[mask], getattr(scored, name)[mask], rtol=0, atol=limits[name])
  forward = jax.jit(apply, static_argnums=0)
  for n, length in enumerate(rows.prompt_lengths):
    whole = np.concatenate([rows.prompt_tokens[n, WIDTH - length :], rows.tokens[n], np.zeros(WIDTH - length, np.int32)])
    logits = np.asarray(forward(model.config, params['policy'], jnp.asarray(whole[None]))[0, length - 1 :][:HORIZON])
    chosen = np.take_along_axis(logits, rows.tokens[n][:, None], axis=1)[:, 0]
    wanted = (logits.max(axis=1) - chosen)[mask[n]]
    np.testing.assert_allclose(rows.regret[n][mask[n]], wanted, rtol=0, atol=limits['regret'])


@EACH_IN_ONE
def test_logits_behind_a_cut_are_those_of_the_prefix_recomputed(variant, precision):
  model, params = model_of(variant)
  tokens = jnp.asarray(np.random.default_rng(1).integers(2, VOCAB, (2, 12)), jnp.int32)
  prompt, cuts, source = (jnp.array(x, jnp.int32) for x in ([3, 5], [0, 4, 6], [0, 0, 1]))

  @jax.jit
  def behind_the_inducer(params):
    states, caches = model.prefill(
      params, tokens, jnp.array([12, 12], jnp.int32)
    )  # a prompt and its response, both in the cache
    shortened = jax.tree.map(lambda x: prompt if x.shape == (2,) else x, caches)
    blank = jax.tree.map(lambda x: jnp.zeros((3, *x.shape[1:])), states)
    begun = refill_rows(blank, model.init_caches(3, 14), (states, shortened), source, jnp.arange(3), cuts)
    for token in INDUCER:
      begun = model.extend_policy(params, jnp.full((3, 1), token, jnp.int32), jnp.ones(3, jnp.int32), *begun, jnp.int32(14))
    return model.logits(params, begun[0]), begun[1].policy.lengths

  logits, lengths = behind_the_inducer(params)
  np.testing.assert_array_equal(lengths, [6, 10, 14])
  whole = np.zeros((3, 14), np.int32)
  for n in range(3):
    whole[n, : lengths[n]] = [*tokens[source[n], : lengths[n] - len(INDUCER)], *INDUCER]
  recomputed = jax.jit(apply, static_argnums=0)(model.config, params['policy'], jnp.asarray(whole))
  limit = rounding.of_program(
    lambda params: behind_the_inducer(params)[0], params, roundings=rounding.of_decoder(model.config, 14)
  )
  np.testing.assert_allclose(logits, recomputed[np.arange(3), lengths - 1], rtol=0, atol=limit)


# ------------------------------------------------------------------------------------------------------------------ the cuts


def test_the_thinking_part_ends_before_its_mark_or_the_end_token():
  tokens = np.array(
    [[4, 4, THOUGHT, THOUGHT, 8], [4, 8, EOS, THOUGHT, 0], [4, 4, 4, 4, 4], [EOS, 0, 0, 0, 0], [THOUGHT, 4, EOS, 0, 0]]
  )
  length, ended = jnp.array([5, 3, 5, 1, 3]), np.array([0, 1, 0, 1, 1])
  rows = jax.tree.map(lambda x: jnp.asarray(x)[:5, :5] if x.ndim == 2 else jnp.asarray(x)[:5], usual())
  rows = rows.replace(
    tokens=jnp.asarray(tokens, jnp.int32),
    length=length,
    trained_from=jnp.zeros(5, jnp.int32),
    stop_reason=jnp.asarray(ended * StopReason.EOS, jnp.int32),
  )
  np.testing.assert_array_equal(thinking_tokens(rows, THOUGHT), [2, 2, 5, 0, 0])
  np.testing.assert_array_equal(thinking_tokens(rows, -1), [5, 2, 5, 0, 2])


@pytest.mark.parametrize(('thinking', 'room'), [(6, 20), (12, 12), (12, 3), (1, 20), (0, 20), (2**20, 2**21)])
def test_cuts_are_uniform_on_the_positions_that_leave_room(thinking, room):
  positions = max(min(thinking, room + 1), 1)
  each = max(24 // positions, 1)
  uniform = jnp.asarray((np.arange(positions * each) + 0.5) / (positions * each), jnp.float32)
  cuts = np.asarray(cut_positions(uniform[None], jnp.array([thinking]), room))[0]
  np.testing.assert_array_equal(cuts, np.repeat(np.arange(positions), each))
  ends = cut_positions(jnp.array([[0.0, 1 - 2.0**-23]]), jnp.array([thinking]), room)
  np.testing.assert_array_equal(ends, [[0, positions - 1]])


def test_cuts_follow_their_law_and_do_not_depend_on_each_other():
  count, horizon = 400, 16
  prompts = Prompts(np.full((count, 2), 4, np.int32), np.full(count, 2, np.int32), np.arange(count, dtype=np.uint32))
  rows = generate(prompts=prompts, samples=3, horizon=horizon, end_tokens=(VOCAB,), slots=0)  # nothing ends a response early
  cuts = rows.trained_from.reshape(count, 3)[:, :2] - len(INDUCER)
  positions = horizon - len(INDUCER) - ANSWER + 1
  assert scipy.stats.chisquare(np.bincount(cuts.ravel(), minlength=positions)).pvalue > 0.01
  pairs = np.zeros((positions, positions))  # of sorted cuts: equal ones count once, others twice
  np.add.at(pairs, tuple(cuts.T), 1)
  wanted = np.triu(2 * np.ones((positions, positions))) - np.eye(positions)
  upper = np.triu_indices(positions)
  assert scipy.stats.chisquare(pairs[upper], wanted[upper] * count / positions**2).pvalue > 0.01
  assert not np.tril(pairs, -1).any()


def test_cuts_lie_in_the_thinking_part_and_leave_room(sampled):
  variant, rows = sampled
  end = SERIAL[variant].end_of_thinking
  for group in range(P):
    path = group * G + EXITS
    written = list(rows.tokens[path, : rows.length[path]])
    thinking = written.index(end) if end in written else len(written) - (written[-1] == EOS)
    cuts = rows.trained_from[group * G : path] - len(INDUCER)
    assert (cuts >= 0).all()
    assert (cuts <= max(min(thinking - 1, HORIZON - len(INDUCER) - ANSWER), 0)).all()


# --------------------------------------------------------------------------------------------------------- what must not matter


def test_a_row_does_not_depend_on_slots_or_on_the_number_and_order_of_prompts(in_float64):
  chosen = np.array([4, 0, 3])
  some = generate(prompts=jax.tree.map(lambda x: x[chosen], PROMPTS), slots=3)
  which = (chosen[:, None] * G + np.arange(G)).reshape(-1)
  assert_same_rows(usual(), some, which)
  np.testing.assert_array_equal(usual().trained_from[which], some.trained_from)


def test_an_exit_does_not_depend_on_how_many_there_are(in_float64):
  few, many = usual(), with_more_exits()
  for n in range(P * G):
    group = np.arange(n // G * (G + 2), (n // G + 1) * (G + 2))
    same = group[(many.tokens[group] == few.tokens[n]).all(axis=1) & (many.trained_from[group] == few.trained_from[n])]
    assert len(same) > 0
    np.testing.assert_allclose(many.logprobs[same[0]], few.logprobs[n], rtol=0, atol=limits_of()['logprobs'])


def test_a_row_does_not_depend_on_the_mesh(in_float64):
  spread = on_mesh(rollout.generate_serial, (2, 2, 2), NEVER, samples=G, serial=SERIAL['shared'])
  assert_same_rows(usual(), spread, which_two=slice(P * G))


# -------------------------------------------------------------------------------------------------- metrics


@pytest.mark.parametrize(('rows_of', 'samples', 'slots'), [(usual, G, SLOTS), (with_more_exits, G + 2, 0)])
def test_metrics_count_what_was_sampled(rows_of, samples, slots):
  rows = rows_of()
  verdicts = np.random.default_rng(0).integers(0, 2, P * samples).astype(np.float32)
  measured = metrics.rollout_metrics(
    jax.tree.map(jnp.asarray, rows),
    jnp.asarray(verdicts),
    samples=samples,
    parts=1,
    slots=slots,
    shadow_share=0.0,
    serial=SERIAL['shared'],
  )
  early = is_early(rows, samples)
  sampled_tokens = [sum(bool(x) for x in row) for row in np.asarray(rows.mask)]
  assert measured['rollout/tokens'] == sum(sampled_tokens)
  assert measured['rollout/shadow_tokens'] == 0
  np.testing.assert_allclose(measured['accuracy'], verdicts[~early].mean(), rtol=rounding.gamma(64))
  np.testing.assert_allclose(measured['serial/accuracy'], verdicts[early].mean(), rtol=rounding.gamma(64))
  np.testing.assert_allclose(measured['rollout/length_mean'], rows.length[~early].mean(), rtol=rounding.gamma(64))
  np.testing.assert_allclose(measured['serial/answer_mean'], np.array(sampled_tokens)[early].mean(), rtol=rounding.gamma(64))
  # First the responses, all at once; then the exits, each on the first slot that is free, its inducer a step a token.
  width = slots or P * (samples - 1)
  free_at = [0] * width
  for n in np.flatnonzero(early):
    first = free_at.index(min(free_at))
    assert rows.started[n] == rows.length[~early].max() + free_at[first]
    free_at[first] += rows.length[n] - rows.trained_from[n] + len(INDUCER)
  wanted = P * rows.length[~early].max() + width * max(free_at)
  assert measured['rollout/row_steps'] == wanted
  np.testing.assert_allclose(measured['rollout/utilisation'], sum(sampled_tokens) / wanted, rtol=rounding.gamma(64))

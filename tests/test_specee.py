"""SpecEE: candidates, what predictors read of them, their verification, and what the lesson teaches."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rollouts as r
import rounding
from rounding import gamma, of_decoder, of_program
from small import VOCAB, actor_critic
from test_calibration import config_of, experiment
from test_exits import roll
from test_lessons import seen_by
from tiny import first_params

from espo_jax import exits
from espo_jax.configs import ConfigError, validate
from espo_jax.learner import score
from espo_jax.model import Deciding, ExitHeads, ModelConfig, States, logits_among

LAYERS, K = 4, 2


def candidate_model(translator='none', scan=False, **shape):
  heads = ExitHeads(1, 'candidates', translator=translator, width=5, candidates=K)
  return actor_critic(3, num_layers=LAYERS, scan_layers=scan, exits=heads, **shape)


def biased(params, bias):
  """The same parameters with gates that are as sure as `bias` makes them."""
  heads = params['policy']['exit_heads']
  return params | {'policy': params['policy'] | {'exit_heads': heads | {'bias': heads['bias'] + bias}}}


def softmax(logits):
  weights = np.exp(logits - logits.max(-1, keepdims=True))
  return weights / weights.sum(-1, keepdims=True)


def replayed(model, params, streams, positions):
  """The gates' logits `[E, ...]`, the candidates, and the likeliest tokens of exits, in float64 from the exits' logits."""
  left = model.leaving(params, streams, positions)
  logits = np.asarray(model.logits(params, States(left, left)), np.float64)
  tokens = np.argsort(-logits[0], axis=-1, kind='stable')[..., :K]
  heads = {name: np.asarray(x, np.float64) for name, x in params['policy']['exit_heads'].items()}
  gates, before = [], np.zeros(tokens.shape)
  for e, its in enumerate(logits):
    own = np.take_along_axis(its, tokens, axis=-1)
    local = softmax(own)
    seen = np.concatenate([own, local, local - before], axis=-1)
    inner = np.maximum(seen @ heads['inner_kernel'][e] + heads['inner_bias'][e], 0.0)
    gates.append(inner @ heads['kernel'][e] + heads['bias'][e])
    before = local
  return np.stack(gates), tokens, logits.argmax(-1)


# ------------------------------------------------------------------------------------------------------------ golden values


def test_the_features_are_logits_their_local_softmax_and_what_it_has_gained():
  logits, before = np.random.default_rng(0).normal(0, 3, (2, 5, 4)), np.random.default_rng(1).dirichlet(np.ones(4), (2, 5))
  seen, local = exits.candidate_features(logits, before)
  np.testing.assert_allclose(local, softmax(logits), rtol=gamma(40))
  np.testing.assert_allclose(seen, np.concatenate([logits, softmax(logits), softmax(logits) - before], -1), atol=gamma(40))
  slope = jax.grad(lambda x: exits.candidate_features(x, before)[0].sum())(jnp.asarray(logits, jnp.float32))
  assert not np.asarray(slope).any()


@pytest.mark.parametrize('tied', [True, False])
def test_logits_of_some_tokens_are_those_of_the_whole_head(tied, precision):
  model, params = candidate_model(tie_word_embeddings=tied)
  hidden = jax.random.normal(jax.random.key(0), (3, 7, model.config.hidden_size), model.config.activation_dtype)
  tokens = jax.random.randint(jax.random.key(1), (3, 7, K), 0, VOCAB)
  whole = np.asarray(model.logits(params, States(hidden, hidden)))
  found = logits_among(model.config, params['policy'], hidden, tokens)
  size = np.abs(whole).max() * model.config.hidden_size
  rounding.assert_close(found, np.take_along_axis(whole, tokens, axis=-1), roundings=2 * model.config.hidden_size, size=size)


def test_a_token_leaves_where_its_predictor_says_so_and_its_likeliest_token_is_a_candidate():
  logits = np.array([[2.0, 2.0, -2.0, 2.0]])
  candidates = np.array([[[1, 3], [1, 3], [1, 3], [-1, -1]]])  # those of the last token are not proposed yet
  readout = np.eye(5)[np.array([[3, 0, 3, 3]])]
  zero = np.zeros((1, 4))
  obs = exits.Observation(logits, zero, readout, readout, lambda x: x, zero.astype(np.int32), zero, candidates)
  np.testing.assert_array_equal(exits.specee().hazard(obs, 0.5), [[1, 0, 0, 0]])
  np.testing.assert_array_equal(exits.specee().hazard(obs, 0.99), zero)
  with pytest.raises(ValueError, match=r"exits.kind = 'candidates'"):
    exits.specee().hazard(obs._replace(candidates=None), 0.5)


@pytest.mark.parametrize(('level', 'asked'), [(0.5, 1), (0.99, 0)])
def test_the_whole_head_is_computed_only_where_a_predictor_says_yes(level, asked):
  calls = []

  def readout(x):
    jax.debug.callback(lambda: calls.append(1))
    return x

  state, zero = jnp.ones((1, 3, 5)), jnp.zeros((1, 3))
  obs = exits.Observation(
    jnp.array([[-3.0, 1.0, -3.0]]), zero, state, state, readout, zero.astype(int), zero, jnp.zeros((1, 3, 2), int)
  )
  jax.block_until_ready(jax.jit(lambda logit: exits.specee().hazard(obs._replace(logit=logit), jnp.float32(level)))(obs.logit))
  jax.effects_barrier()
  assert len(calls) == asked


# -------------------------------------------------------------------------------------------------------------- the decoder


@pytest.mark.parametrize('scan', [False, True])
@pytest.mark.parametrize('translator', ['none', 'token'])
@pytest.mark.parametrize('bias', [1.0, 100.0])  # with the second every predictor says yes, so that only verification decides
def test_a_decoded_token_leaves_at_the_first_exit_that_is_predicted_and_verified(bias, translator, scan):
  model, params = candidate_model(translator, scan)
  params = biased(params, bias)
  tokens = jax.random.randint(jax.random.key(1), (60, 5), 0, VOCAB)
  positions, ones = jnp.broadcast_to(jnp.arange(5), tokens.shape), jnp.ones_like(tokens)
  deep = dataclasses.replace(model, exits=exits.specee())
  states, caches = deep.prefill(params, tokens[:, :4], jnp.full(60, 4))
  wide = jax.tree.map(lambda x: jnp.pad(x, [(0, 0)] * (x.ndim - 2) + [(0, 2), (0, 0)]) if x.ndim >= 4 else x, caches)
  zero, live = jnp.zeros((60, 1)), jnp.ones((60, 1), bool)
  reading = Deciding(zero.astype(jnp.int32), zero, live, jnp.float32(0.5))
  found = deep.extend_policy(params, tokens[:, 4:], jnp.ones(60, jnp.int32), states, wide, jnp.int32(5), reading)[0]

  streams = model.entering(params, tokens, positions, ones)[1]
  gates, candidates, likeliest = replayed(model, params, streams, positions)
  says = gates[..., -1] > 0
  verified = (candidates[:, -1] == likeliest[..., -1, None]).any(-1)
  leaves = says & verified
  leaves[0] = False  # the exit that proposes
  wanted = np.where(leaves.any(0), 1 + leaves.argmax(0), LAYERS)
  np.testing.assert_array_equal(found.depth.blocks, wanted)
  assert (says & ~verified)[1:].any() and len(np.unique(wanted)) == LAYERS - 1  # at all exits but the first, and at none
  said = np.asarray(model.logits(params, found)).argmax(-1)
  row, left = np.arange(60), wanted < LAYERS
  np.testing.assert_array_equal(said[left], likeliest[np.minimum(wanted, LAYERS - 1) - 1, row, -1][left])
  assert (candidates[row, -1] == said[:, None]).any(-1)[left].all()
  plain = dataclasses.replace(model, exits=None)
  whole = plain.extend_policy(params, tokens[:, 4:], jnp.ones(60, jnp.int32), states, wide, jnp.int32(5))[0]
  np.testing.assert_array_equal(found.policy[~left], whole.policy[~left])


@pytest.mark.parametrize('scan', [False, True])
def test_predictors_read_in_the_cache_what_they_read_without_one(scan):
  """The policy `sampled` has the gates' probabilities in its log-probabilities, which the learner computes a second time."""
  model, params = candidate_model('token', scan)
  policy = exits.sampled(level=0.0)
  rows = jax.tree.map(jnp.asarray, roll(model, params, policy, slots=5))
  real = np.asarray(rows.mask)

  @jax.jit
  def read(params):
    deep = dataclasses.replace(model, exits=policy)
    prompts = (rows.prompt_tokens, rows.prompt_lengths, rows.tokens)
    again = score(deep, params, *prompts, temperature=1.0, chunk=10_000, blocks=rows.depth.blocks, exit_level=policy.level)
    return [jnp.where(real, x, 0.0) for x in (again.logprobs, again.exit_logprobs)]

  limits = of_program(read, params, roundings=of_decoder(model.config, r.WIDTH + r.HORIZON) + 4 * r.WIDTH)
  rounding.assert_within(read(params), [np.where(real, x, 0.0) for x in (rows.logprobs, rows.depth.logprobs)], limits)
  assert (np.asarray(rows.depth.logprobs)[real] < 0).any()


def test_a_row_depends_neither_on_slots_nor_on_its_neighbours(in_float64):
  model, params = candidate_model()
  params = biased(params, 1.0)
  one, other = (roll(model, params, exits.specee(), slots=slots) for slots in (5, 0))
  r.assert_same_rows(one, other, limits=r.limits_for(model, params, one))
  real = np.asarray(one.mask)
  np.testing.assert_array_equal(one.depth.blocks[real], other.depth.blocks[real])
  assert len(np.unique(one.depth.blocks[real])) > 1


@pytest.mark.parametrize('scan', [False, True])
def test_behind_blocks_that_add_nothing_all_tokens_leave_at_the_second_exit_and_none_changes(scan):
  model, params = candidate_model(scan=scan)

  def silent(path, x):
    name = jax.tree_util.keystr(path)
    if not ('o_proj' in name or 'down_proj' in name):
      return x
    return x.at[1:].set(0.0) if scan else x * float('layer_0' in name)

  params = biased(params | {'policy': jax.tree_util.tree_map_with_path(silent, params['policy'])}, 100.0)
  rows, whole = (roll(model, params, policy) for policy in (exits.specee(), exits.never()))
  real = np.asarray(rows.mask)
  assert (rows.depth.blocks[:, 1:][real[:, 1:]] == 2).all() and real[:, 1:].any()
  np.testing.assert_array_equal(rows.tokens, whole.tokens)


# --------------------------------------------------------------------------------------------------------------- the lesson


def mean(x):
  return x.mean()


def test_the_lesson_teaches_the_gates_that_decoding_asks():
  exp = experiment(lesson__name='specee', exits__alone=True, exits__kind='candidates', exits__candidates=K, exits__width=6)
  params = first_params(exp, 0)
  drawn = np.random.default_rng(0)
  heads = jax.tree.map(lambda x: jnp.asarray(drawn.normal(size=x.shape), jnp.float32), params['policy']['exit_heads'])
  params = params | {'policy': params['policy'] | {'exit_heads': heads}}
  seen, seqs, _, _ = seen_by(exp, params)
  streams = exp.model.entering(params, seqs.tokens, seqs.positions, seqs.segments)[1]
  gates, counts = replayed(exp.model, params, streams, seqs.positions)[0], np.asarray(seqs.counts)
  real = np.arange(exp.config.rollout.horizon) < counts.sum(1, keepdims=True)
  found = np.asarray(seen['gates']())
  assert len(found) == 2 and real.any()
  np.testing.assert_allclose(found[:, real], gates[:, counts], rtol=1e-4, atol=1e-4)


def test_the_lesson_is_the_cross_entropy_of_all_predictors_but_the_first():
  drawn = np.random.default_rng(0)
  gates, ranks = drawn.normal(size=(3, 2, 5)).astype(np.float32), drawn.integers(0, 2, (3, 2, 5))
  value, metrics = exits.specee_lesson(gates, ranks, mean)
  p = 1 / (1 + np.exp(-gates.astype(np.float64)))[1:]
  right = ranks[1:] == 0
  np.testing.assert_allclose(value, -np.where(right, np.log(p), np.log(1 - p)).mean(), rtol=1e-6)
  assert float(metrics['exits/right']) == pytest.approx(right.mean(), rel=1e-6)
  slope = np.asarray(jax.grad(lambda x: exits.specee_lesson(x, ranks, mean)[0])(jnp.asarray(gates)))
  assert not slope[0].any()
  np.testing.assert_array_equal(slope[1:] < 0, right)
  with pytest.raises(ValueError, match=r'fix: a lower exits.every'):
    exits.specee_lesson(gates[:1], ranks[:1], mean)


def test_candidates_that_cannot_be_read_are_refused():
  def problems(**lines):
    with pytest.raises(ConfigError) as raised:
      validate(config_of(**lines))
    return '\n'.join(raised.value.problems)

  assert "fix: exits.kind = 'candidates'" in problems(exits__policy='specee')
  assert "fix: exits.kind = 'candidates'" in problems(lesson__name='specee', exits__alone=True)
  assert 'none is behind it' in problems(exits__policy='specee', exits__kind='candidates', exits__first_block=2)
  assert 'exits.candidates = 0' in problems(exits__kind='candidates', exits__candidates=0)
  assert 'exits.level' in problems(exits__policy='specee', exits__kind='candidates', exits__level=1.5)
  with pytest.raises(ValueError, match=r'exits.candidates = 13 exceeds the vocabulary of 12'):
    ModelConfig(VOCAB, exits=ExitHeads(1, 'candidates', candidates=13))


@pytest.mark.parametrize('candidates', [1, 4, 7])
def test_a_training_of_predictors_needs_no_model_on_disk(candidates):
  specee = {'lesson__name': 'specee', 'exits__policy': 'specee', 'exits__kind': 'candidates', 'exits__alone': True}
  validate(config_of(exits__candidates=candidates, **specee))

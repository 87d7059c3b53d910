"""The networks of exits: gates and translators, with a memory of tokens or without, in the cache and without one."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rollouts as r
import rounding
from rounding import gamma, of_decoder
from small import VOCAB, actor_critic
from test_exits import roll

from espo_jax import exits, rollout
from espo_jax.learner import score
from espo_jax.model import ExitHeads, Forced, States, picked_rows
from espo_jax.model.exit_heads import convolution, recurrence
from espo_jax.rollout import Sampling

LAYERS = 4


# ------------------------------------------------------------------------------------------------------ the exits' networks


@rounding.cached
def networks(kind, translator, scan=False):
  """A model whose exits have such networks, none of them idle."""
  return actor_critic(3, num_layers=LAYERS, scan_layers=scan, exits=ExitHeads(1, kind, translator=translator, width=5))


def some_tokens():
  tokens = jax.random.randint(jax.random.key(5), (3, 9), 0, VOCAB)
  return tokens, jnp.broadcast_to(jnp.arange(9), tokens.shape), jnp.ones_like(tokens)


def softmax(logits):
  weights = np.exp(logits - logits.max(-1, keepdims=True))
  return weights / weights.sum(-1, keepdims=True)


NETWORKS = [
  ('statistics', 'token', 'jei_gates'),
  ('candidates', 'none', 'specee'),
  ('recurrence', 'none', 'dynamax'),
  ('recurrence', 'local_global', 'confidence'),
]
DRAWN = [('recurrence', 'none', 'sampled'), ('recurrence', 'local_global', 'sampled')]
POLICIES = {
  'jei_gates': exits.jei_gates(),
  'dynamax': exits.dynamax(),
  'confidence': exits.confidence(level=0.4),
  'sampled': exits.sampled(),
  'specee': exits.specee(),
}


@pytest.mark.parametrize('scan', [False, True])
@pytest.mark.parametrize(('kind', 'translator', 'name'), NETWORKS + DRAWN)
def test_networks_decode_from_the_cache_what_they_score_without_one(kind, translator, name, scan):
  model, params = networks(kind, translator, scan)
  policy = POLICIES[name]
  rows = roll(model, params, policy, slots=5)
  real = np.asarray(rows.mask)
  given = jax.tree.map(jnp.asarray, rows)

  @jax.jit
  def read(params):
    deep = dataclasses.replace(model, exits=policy)
    prompts = (given.prompt_tokens, given.prompt_lengths, given.tokens)
    again = score(deep, params, *prompts, temperature=1.0, chunk=10_000, blocks=given.depth.blocks, exit_level=policy.level)
    return [jnp.where(real, x, 0.0) for x in (again.logprobs, again.exit_logprobs, again.values)]

  limits = rounding.of_program(read, params, roundings=of_decoder(model.config, r.WIDTH + r.HORIZON) + 4 * r.WIDTH)
  then = [np.where(real, x, 0.0) for x in (rows.logprobs, rows.depth.logprobs, rows.values)]
  rounding.assert_within(read(params), then, limits)
  assert (rows.depth.logprobs[real] < 0).any() == (name == 'sampled')
  assert (rows.depth.blocks[real] < LAYERS).any()


@pytest.mark.parametrize(('kind', 'translator', 'name'), NETWORKS)
def test_networks_that_never_leave_sample_what_the_model_without_them_samples(kind, translator, name):
  model, params = networks(kind, translator)
  policy = exits.get(name)()
  bare = {name: x for name, x in params['policy'].items() if name != 'exit_heads'}
  plain = dataclasses.replace(model, config=dataclasses.replace(model.config, exits=ExitHeads()))
  rows, whole = roll(model, params, policy, level=1.5), roll(plain, params | {'policy': bare}, exits.never())
  r.assert_same_rows(rows, whole, limits=dict.fromkeys(r.NUMBERS, 0.0))


@pytest.mark.parametrize(('kind', 'translator'), [('linear', 'token'), ('recurrence', 'local_global')])
def test_drafts_from_an_exit_are_read_through_its_translator_and_change_no_greedy_token(kind, translator):
  model, params = networks(kind, translator)
  greedy = {'samples': 1, 'horizon': 6, 'end_tokens': (r.EOS,), 'pad_token': r.PAD, 'sampling': Sampling(jnp.float32(0.0))}
  prompts, key = jax.tree.map(jnp.asarray, r.PROMPTS), jax.random.key(7)
  rows, counts = rollout.speculate(model, params, prompts, key, draft_blocks=2, draft_tokens=3, **greedy)
  whole = rollout.generate(model, params, r.RULE, r.in_precision(r.STATE), prompts, key, **greedy)
  real = np.asarray(whole.mask)
  np.testing.assert_array_equal(np.asarray(rows.tokens)[real], np.asarray(whole.tokens)[real])
  stream = jax.random.normal(jax.random.key(0), (2, 1, model.config.hidden_size))
  left = model.leaving(params, jnp.broadcast_to(stream, (3, *stream.shape)), jnp.zeros((2, 1), jnp.int32))[1]
  read = model.readout(params, stream, 2)
  same = np.allclose(read, model.logits(params, States(left, left)), rtol=1e-5, atol=1e-5)
  assert same == (translator == 'token') and int(counts.drafted) > 0


def test_a_picked_row_takes_along_all_that_its_caches_hold():
  model, _ = networks('recurrence', 'local_global')
  caches = model.init_caches(3, 5)
  rng, source = np.random.default_rng(0), np.array([2, 0, 2])
  caches = jax.tree.map(lambda x: jnp.asarray(rng.integers(0, 9, x.shape), x.dtype), caches)
  states = States(*jnp.asarray(rng.normal(size=(2, 3, model.config.hidden_size)), jnp.float32))
  picked, those = picked_rows(states, caches, jnp.asarray(source))
  for found, x in zip(jax.tree.leaves(those), jax.tree.leaves(caches), strict=True):
    np.testing.assert_array_equal(found, np.asarray(x)[source] if x.ndim == 1 else np.asarray(x)[:, source])
  np.testing.assert_array_equal(picked.policy, np.asarray(states.policy)[source])


def test_only_tokens_that_leave_at_an_exit_are_translated():
  model, params = networks('linear', 'token')
  idle = params['policy']['exit_heads'] | {'up': jnp.zeros_like(params['policy']['exit_heads']['up'])}
  idle = params | {'policy': params['policy'] | {'exit_heads': idle}}
  tokens, positions, ones = some_tokens()
  for policy, translates in {
    exits.threshold(): True,
    exits.fixed(level=2.0): True,
    exits.skipdecode(level=2.0): False,
    exits.threshold()._replace(top=1): False,
    exits.ffn_skip(): False,
  }.items():
    deep = dataclasses.replace(model, exits=policy)
    forced = Forced(jnp.full(tokens.shape, 2), ones > 0, jnp.float32(policy.level))
    one, other = (deep.states(its, tokens, positions, ones, forced).policy for its in (params, idle))
    assert policy.leaves == translates and bool((one != other).any()) == translates


def test_an_untrained_translator_is_the_model_cut_off_bit_for_bit():
  model, params = networks('linear', 'token')
  heads = params['policy']['exit_heads']
  params = params | {'policy': params['policy'] | {'exit_heads': heads | {'up': jnp.zeros_like(heads['up'])}}}
  tokens, positions, ones = some_tokens()
  forced = Forced(jnp.full(tokens.shape, 2), ones > 0, jnp.float32(0.1))
  cut, own = (
    dataclasses.replace(m, exits=exits.threshold()) for m in (model, actor_critic(3, num_layers=LAYERS, exits=ExitHeads(1))[0])
  )
  bare = {'policy': params['policy'] | {'exit_heads': {name: heads[name] for name in ('kernel', 'bias')}}}
  one, other = cut.states(params, tokens, positions, ones, forced), own.states(bare, tokens, positions, ones, forced)
  np.testing.assert_array_equal(one.policy, other.policy)


def test_a_network_sees_no_other_sequence_of_a_packed_row():
  model, params = networks('recurrence', 'local_global')
  tokens, positions, ones = some_tokens()
  _, streams = model.entering(params, tokens, positions, ones)
  packed = jnp.concatenate([tokens[:1], tokens[1:2]], axis=1)
  places = jnp.concatenate([positions[:1], positions[1:2]], axis=1)
  side_by_side = jnp.concatenate([streams[:, :1], streams[:, 1:2]], axis=2)
  for found in (model.gates, model.leaving):
    alone, together = found(params, streams, positions), found(params, side_by_side, places)
    np.testing.assert_allclose(together[:, 0, packed.shape[1] // 2 :], alone[:, 1], rtol=1e-5, atol=1e-5)


def test_recurrence_and_convolution_are_loops_over_tokens(precision):
  rng = np.random.default_rng(0)
  values, keep, before = rng.normal(size=(2, 7, 3)), rng.uniform(size=(2, 7, 3)), rng.normal(size=(2, 3, 3))
  state, wanted = before[:, -1], []
  for t in range(7):
    state = keep[:, t] * state + (1 - keep[:, t]) * values[:, t]
    wanted.append(state)
  found = recurrence(values, keep, before[:, -1])
  rounding.assert_close(found, np.stack(wanted, axis=1), roundings=4 * 7, size=np.abs(values).max() + np.abs(before).max())
  taps, positions = rng.normal(size=(4, 3)), np.broadcast_to(np.arange(1, 8), (2, 7))
  whole = np.concatenate([before, values], axis=1)
  wanted = [sum(taps[k] * whole[:, t + 3 - k] for k in range(4) if positions[0, t] >= k) for t in range(7)]
  found = convolution(values, taps, positions, before)
  size = np.abs(taps).sum() * (np.abs(values).max() + np.abs(before).max())
  rounding.assert_close(found, np.stack(wanted, axis=1), roundings=2 * 4, size=size)


# ------------------------------------------------------------------------------------------------------------ gates and lessons


def test_gates_exit_with_the_golden_probabilities_and_activations():
  gates = np.array([0.3, 0.5, 0.6])
  np.testing.assert_allclose(exits.exit_probabilities(gates), [0.3, 0.5, 0.2], rtol=gamma(4))
  found = exits.activation(gates, np.array([0.0, 0.3, 0.8]))
  np.testing.assert_allclose(found, [0.3, 0.714286, 1.0], atol=1e-6)
  random = np.random.default_rng(0).uniform(size=(50, 4))
  assert (np.asarray(exits.exit_probabilities(random)).sum(-1) <= 1 + 1e-6).all()
  assert float(exits.activation(np.float32(0.2), np.float32(1.5))) == 1.0


def test_the_statistics_of_a_gate_are_those_of_its_distribution():
  logits = np.random.default_rng(0).normal(0, 2, (3, 5, 9))
  p = softmax(logits)
  squared = np.square(p) / np.square(p).sum(-1, keepdims=True)
  top = np.sort(p, axis=-1)
  entropies = (-(x * np.log(x)).sum(-1) for x in (p, squared))
  wanted = np.stack([top[..., -1], next(entropies), top[..., -1] - top[..., -2], next(entropies)], axis=-1)
  np.testing.assert_allclose(exits.gate_statistics(logits), wanted, rtol=1e-4, atol=1e-5)
  assert not np.asarray(jax.grad(lambda x: exits.gate_statistics(x).sum())(jnp.asarray(logits, jnp.float32))).any()

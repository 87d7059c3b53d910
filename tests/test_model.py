"""The decoder against a plain float64 one, and against itself: cached, padded, scanned, split in two."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rounding
from rounding import assert_within, of_decoder, of_program
from small import VOCAB, actor_critic, config, forward, left_padded

from espo_jax.model import ActorCritic, ModelConfig, apply, refill_rows

RNG = np.random.default_rng(0)
TOKENS = RNG.integers(0, VOCAB, (3, 9)).astype(np.int32)
DECODED = 4  # tokens decoded one by one


# ------------------------------------------------------------------------------------------------ a decoder in plain numpy


def rms_norm(x, scale, eps):
  return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * scale


def rotate(x, position, theta):
  """One head of one token: channel i turns with channel i + K / 2 by position * theta^(-2 i / K)."""
  half = len(x) // 2
  out = np.empty(len(x))
  for i in range(half):
    angle = position * theta ** (-2 * i / len(x))
    out[i] = x[i] * np.cos(angle) - x[half + i] * np.sin(angle)
    out[half + i] = x[half + i] * np.cos(angle) + x[i] * np.sin(angle)
  return out


def attention(h, layer, cfg: ModelConfig, positions):
  length = len(h)
  q, k, v = ((h @ layer[f'{name}_proj']['kernel']).reshape(length, -1, cfg.head_dim) for name in 'qkv')
  out = np.zeros((length, cfg.num_heads, cfg.head_dim))
  for head in range(cfg.num_heads):
    shared = head * cfg.num_kv_heads // cfg.num_heads
    queries = [rotate(q[t, head], positions[t], cfg.rope_theta) for t in range(length)]
    keys = [rotate(k[t, shared], positions[t], cfg.rope_theta) for t in range(length)]
    for t in range(length):
      weights = np.exp([queries[t] @ keys[s] / np.sqrt(cfg.head_dim) for s in range(t + 1)])
      out[t, head] = (weights / weights.sum()) @ v[: t + 1, shared]
  return out.reshape(length, -1) @ layer['o_proj']['kernel']


def swiglu(h, layer):
  gate = h @ layer['gate_proj']['kernel']
  return (gate / (1 + np.exp(-gate)) * (h @ layer['up_proj']['kernel'])) @ layer['down_proj']['kernel']


def reference(params, cfg: ModelConfig, tokens, positions):
  """Logits and values of one row, float64."""
  params = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
  x = params['embedding'][tokens]
  for i in range(cfg.num_layers):
    layer = params[f'layer_{i}']
    x = x + attention(rms_norm(x, layer['attention_norm']['scale'], cfg.rms_norm_eps), layer['attention'], cfg, positions)
    x = x + swiglu(rms_norm(x, layer['mlp_norm']['scale'], cfg.rms_norm_eps), layer['mlp'])
  x = rms_norm(x, params['final_norm']['scale'], cfg.rms_norm_eps)
  logits = x @ (params['embedding'].T if cfg.tie_word_embeddings else params['lm_head']['kernel'])
  return logits, x @ params['value']['kernel'][:, 0] + params['value']['bias'][0] if 'value' in params else None


# --------------------------------------------------------------------------------------------------------------------------


@functools.partial(jax.jit, static_argnums=(0, 4))
def decoded(model: ActorCritic, params, tokens, lengths, columns):
  """What comes after each of the last tokens, through a cache: a prefill of prompts of given lengths, then token by token."""
  prompts = jax.tree.map(jnp.asarray, tokens)
  states, filled = model.prefill(params, prompts, lengths)
  room = model.init_caches(tokens.shape[0], columns)
  rows = jnp.arange(tokens.shape[0])
  states, caches = refill_rows(states, room, (states, filled), rows, rows)
  parts = [(model.logits(params, states), model.values(params, states))]
  for i in range(DECODED):
    new = jnp.take_along_axis(prompts, (lengths + i)[:, None], axis=1)
    longest = caches.policy.lengths.max() + 1
    ones = jnp.ones(tokens.shape[0], jnp.int32)
    states, caches = model.extend_policy(params, new, ones, states, caches, longest)
    if model.separate_critic:
      hidden, caches = model.extend_critic(params, new, ones, caches, longest)
      states = states.replace(critic=hidden[:, -1])
    parts.append((model.logits(params, states), model.values(params, states)))
  return tuple(jnp.stack(xs, axis=1) for xs in zip(*parts, strict=True))


def rounding_of(model, params, tokens=TOKENS, *places, farthest=9):
  """How far rounding may move the logits and the values of a pass, none of whose positions is beyond the farthest."""
  roundings = of_decoder(model.config, farthest)
  return of_program(functools.partial(forward, model), params, tokens, *places, roundings=roundings)


@pytest.mark.parametrize(
  'overrides',
  [
    {'tie_word_embeddings': True},
    {'tie_word_embeddings': False},
    {'num_kv_heads': 1},
    {'num_kv_heads': 4, 'vocab_size': 600},  # a vocabulary that is looked up, not multiplied
  ],
  ids=str,
)
def test_forward_is_the_float64_decoder(overrides, precision):
  model, params = actor_critic(1, **overrides)
  positions = np.array([[0, 1, 2, 3, 4, 5, 6, 7, 8], [5, 6, 7, 8, 9, 10, 11, 12, 13], [0, 0, 0, 0, 1, 2, 3, 4, 5]], np.int32)
  logits, values = forward(model, params, TOKENS, positions)
  assert logits.dtype == values.dtype == precision
  limits = rounding_of(model, params, TOKENS, positions)
  for row in range(3):
    wanted = reference(params['policy'], model.config, TOKENS[row], positions[row])
    assert_within((logits[row], values[row]), wanted, limits)


def test_apply_is_the_forward_of_the_policy(precision):
  model, params = actor_critic(1)
  applied = apply(model.config, params['policy'], jnp.asarray(TOKENS))
  assert_within(applied, forward(model, params, TOKENS)[0], rounding_of(model, params)[0])


def test_separate_critic_is_a_decoder_of_its_own(precision):
  model, params = actor_critic(2, separate_critic=True)
  logits, values = forward(model, params, TOKENS)
  limits = rounding_of(model, params)
  for row in range(3):
    policy, critic = (reference(params[name], model.config, TOKENS[row], np.arange(9)) for name in ('policy', 'critic'))
    assert_within((logits[row], values[row]), (policy[0], critic[1]), limits)
  gradients = jax.jit(jax.grad(lambda p: forward(model, p, TOKENS)[1].sum()))(params)
  assert all(not np.any(g) for g in jax.tree.leaves(gradients['policy']))
  assert all(np.any(g) for g in jax.tree.leaves(gradients['critic']))


def test_separate_critic_starts_from_the_policys_trunk():
  params = jax.jit(ActorCritic(config(), separate_critic=True).init)(jax.random.key(0))
  critic = dict(params['critic'])
  value = critic.pop('value')
  jax.tree.map(np.testing.assert_array_equal, critic, dict(params['policy']))
  assert not np.any(value['kernel'])  # the first critic says nothing


CACHED = [(False, False, 9), (False, True, 64), (True, False, 64), (True, True, 9)]


@pytest.mark.parametrize(
  ('separate_critic', 'scan_layers', 'columns', 'dtype'), [*((*case, 'float64') for case in CACHED), (*CACHED[1], 'float32')]
)
def test_cached_decoding_is_uncached(separate_critic, scan_layers, columns, dtype):
  with rounding.computed_in(dtype):
    check_cached_decoding(separate_critic, scan_layers, columns)


def check_cached_decoding(separate_critic, scan_layers, columns):
  model, params = actor_critic(3, separate_critic=separate_critic, scan_layers=scan_layers)
  lengths = np.array([5, 3, 1], np.int32)
  wanted = forward(model, params, TOKENS)
  got = decoded(model, params, TOKENS, lengths, columns)
  limits = rounding_of(model, params)
  for row, length in enumerate(lengths):
    assert_within([x[row] for x in got], [x[row, length - 1 : length + DECODED] for x in wanted], limits)


@pytest.mark.parametrize('separate_critic', [False, True])
def test_several_tokens_at_a_time_are_one_after_the_other(separate_critic, in_float64):
  model, params = actor_critic(3, separate_critic=separate_critic)
  lengths = jnp.array([5, 3, 1], jnp.int32)
  states, filled = model.prefill(params, jnp.asarray(TOKENS), lengths)
  room, rows = model.init_caches(3, 12), jnp.arange(3)
  states, caches = refill_rows(states, room, (states, filled), rows, rows)
  new = jnp.stack([jnp.asarray(TOKENS[i, n : n + 4]) for i, n in enumerate([5, 3, 1])])
  counts = jnp.full(3, 4, jnp.int32)
  at_once, together = model.extend_policy(params, new, counts, states, caches, jnp.int32(9))
  if separate_critic:
    hidden, together = model.extend_critic(params, new, counts, together, jnp.int32(9))
    at_once = at_once.replace(critic=hidden[:, -1])
  got, forced = (model.logits(params, at_once), model.values(params, at_once)), forward(model, params, TOKENS)
  limits = rounding_of(model, params)
  for row, last in enumerate([8, 6, 4]):
    assert_within([x[row] for x in got], [x[row, last] for x in forced], limits)
  np.testing.assert_array_equal(together.policy.lengths, [9, 7, 5])


@pytest.mark.parametrize('scan_layers', [False, True])
def test_sequences_that_share_a_row_do_not_see_each_other(scan_layers, in_float64):
  model, params = actor_critic(9, scan_layers=scan_layers)
  packed = np.concatenate([TOKENS[0, :4], TOKENS[1, :3], TOKENS[2, :5]])[None]
  packed = np.pad(packed, ((0, 0), (0, 2)))
  positions = np.array([[*range(4), *range(3), *range(5), 0, 0]], np.int32)
  segments = np.array([[1] * 4 + [2] * 3 + [3] * 5 + [0] * 2], np.int32)
  together, alone = forward(model, params, packed, positions, segments), forward(model, params, TOKENS)
  limits = rounding_of(model, params)
  for row, (start, length) in enumerate([(0, 4), (4, 3), (7, 5)]):
    assert_within([x[0, start : start + length] for x in together], [x[row, :length] for x in alone], limits)


def test_left_padded_row_is_the_unpadded_row(precision):
  model, params = actor_critic(4)
  lengths = [9, 6, 2]
  places = left_padded(9, lengths)
  padded, limits = forward(model, params, TOKENS, *places), rounding_of(model, params, TOKENS, *places)
  for row, length in enumerate(lengths):
    alone = forward(model, params, TOKENS[row : row + 1, -length:])
    assert_within([x[row, -length:] for x in padded], [x[0] for x in alone], limits)


def test_what_stands_in_the_padding_is_not_seen():
  model, params = actor_critic(4)
  positions, segments = left_padded(9, [9, 6, 2])
  valid = np.asarray(segments) > 0
  other = np.where(valid, TOKENS, (TOKENS + 1) % VOCAB)
  one, two = forward(model, params, TOKENS, positions, segments), forward(model, params, other, positions, segments)
  jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[valid], b[valid]), one, two)
  assert np.abs(one[0] - two[0])[~valid].max() > 0.1


def test_scanned_layers_are_the_unrolled_ones(in_float64):
  model, params = actor_critic(5, num_layers=3)
  policy = dict(params['policy'])
  layers = [policy.pop(f'layer_{i}') for i in range(3)]
  stacked = {'policy': policy | {'layers': jax.tree.map(lambda *xs: jnp.stack(xs), *layers)}}
  scanned = ActorCritic(config(num_layers=3, scan_layers=True))
  assert jax.tree.map(jnp.shape, stacked) == jax.tree.map(jnp.shape, jax.eval_shape(scanned.init, jax.random.key(0)))
  assert_within(forward(scanned, stacked, TOKENS), forward(model, params, TOKENS), rounding_of(model, params))


@pytest.mark.parametrize('changed', [0, 4, 8])
def test_a_later_token_never_changes_an_earlier_output(changed):
  model, params = actor_critic(6)
  other = TOKENS.copy()
  other[:, changed] = (other[:, changed] + 1) % VOCAB
  for a, b in zip(forward(model, params, TOKENS), forward(model, params, other), strict=True):
    np.testing.assert_array_equal(a[:, :changed], b[:, :changed])
    assert (
      np.abs(np.asarray(a - b)[:, changed:]).reshape(3, 9 - changed, -1).max(-1) > 1e-4
    ).all()  # while all later ones change


def test_rope_sees_distances_only(precision):
  model, params = actor_critic(7)
  shifted = np.broadcast_to(np.arange(9, dtype=np.int32) + 40, TOKENS.shape)
  stretched = np.broadcast_to(np.arange(9, dtype=np.int32) * 2, TOKENS.shape)
  logits = forward(model, params, TOKENS)[0]
  assert_within(forward(model, params, TOKENS, shifted)[0], logits, rounding_of(model, params, farthest=48)[0])
  assert np.abs(forward(model, params, TOKENS, stretched)[0] - logits).max() > 0.1


@pytest.mark.parametrize('separate_critic', [False, True])
@pytest.mark.parametrize('scan_layers', [False, True])
def test_refilled_rows_begin_anew_and_the_others_go_on(separate_critic, scan_layers):
  model, params = actor_critic(8, separate_critic=separate_critic, scan_layers=scan_layers)
  lengths = jnp.array([5, 3, 1])
  prompts = jax.jit(model.prefill)(params, jnp.asarray(TOKENS[:, :5]), lengths)
  room, rows = model.init_caches(4, 8), jnp.arange(4)
  states = jax.tree.map(lambda x: jnp.zeros((4, *x.shape[1:])), prompts[0])
  before = refill_rows(states, room, prompts, jnp.array([0, 1, 2, 0]), rows)
  after = refill_rows(*before, prompts, jnp.array([2, 1, 1]), jnp.array([3, 0, 4]))  # 4 is no row
  wanted = refill_rows(states, room, prompts, jnp.array([1, 1, 2, 2]), rows)
  seen = np.arange(8) < np.asarray(wanted[1].policy.lengths)[:, None]  # what stands behind is never read
  jax.tree.map(np.testing.assert_array_equal, after[0], wanted[0])
  for a, b in zip(jax.tree.leaves(after[1]), jax.tree.leaves(wanted[1]), strict=True):
    np.testing.assert_array_equal(*(np.asarray(x) if x.ndim == 1 else np.where(seen[..., None], x, 0) for x in (a, b)))


def test_impossible_heads_are_refused():
  with pytest.raises(ValueError, match=r'num_heads = 4 must be a multiple of model\.num_kv_heads = 3'):
    config(num_kv_heads=3)
  with pytest.raises(ValueError, match=r'head_dim = 5 must be even'):
    config(head_dim=5)

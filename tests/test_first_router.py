"""FiRST's routers: what they read of a prompt, by numpy, and the routes that responses take."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rollouts as r
import rounding
from small import VOCAB, actor_critic

from espo_jax import exits, rollout
from espo_jax.exits.routes import on_route, route_length, route_of
from espo_jax.model import Deciding, ExitHeads, Forced
from espo_jax.model.layers import Together
from espo_jax.rollout import Sampling

LAYERS = 10
ROUTED = exits.first_router()


@rounding.cached
def model_of(scan=False, every=1):
  return actor_critic(3, num_layers=LAYERS, scan_layers=scan, exits=ExitHeads(every))


def rolled(model, params, *, level=0.5, slots=0, prompts=r.PROMPTS):
  rows = rollout.generate(
    model,
    params,
    r.RULE,
    r.in_precision(r.STATE),
    jax.tree.map(jnp.asarray, prompts),
    jax.random.key(7),
    samples=r.G,
    horizon=r.HORIZON,
    end_tokens=(r.EOS,),
    pad_token=r.PAD,
    sampling=Sampling(jnp.float32(1.0)),
    shadow_share=jnp.float32(0.5),
    exit_level=level,
    scan_length=8,
    slots=slots,
  )
  return jax.device_get(rows)


def routed(model):
  return dataclasses.replace(model, exits=ROUTED)


def bits(route):
  return (np.asarray(route)[..., :1] >> np.arange(LAYERS, dtype=np.uint32) & 1).astype(bool)


def keeps_by_numpy(model, params, tokens):
  """The probabilities of one prompt's routers in float64, from the streams of the whole model."""
  positions, ones = jnp.arange(len(tokens))[None], jnp.ones((1, len(tokens)), jnp.int32)

  def entered(decoder):
    return decoder._trunk(jnp.asarray(tokens)[None], positions, Together(ones), None, None).entered

  streams = model._policy.apply({'params': params['policy']}, method=entered)
  heads = {name: np.asarray(x, np.float64) for name, x in params['policy']['exit_heads'].items()}
  found = np.ones(LAYERS)
  for head, block in enumerate(model.config.exit_blocks):
    logit = np.asarray(streams[block], np.float64)[0].mean(0) @ heads['kernel'][head] + heads['bias'][head]
    found[block] = 1 / (1 + np.exp(-logit))
  return found


def test_a_route_is_its_blocks():
  runs = np.random.default_rng(0).random((4, 37)) < 0.5
  route = route_of(runs)
  assert route.shape == (4, 2) and route.dtype == jnp.uint32
  np.testing.assert_array_equal(np.stack([on_route(route, block) for block in range(37)], -1), runs)
  np.testing.assert_array_equal(route_length(route), runs.sum(-1))


@pytest.mark.parametrize(('scan', 'every'), [(False, 1), (False, 3), (True, 3)])
def test_the_routers_read_the_mean_stream_of_their_prompt_alone(scan, every):
  """Prompts of several lengths share the sequences of the first pass."""
  model, params = model_of(scan, every)
  lengths = np.array([4, 1, 3, 5] * 4)
  tokens = np.random.default_rng(2).integers(2, VOCAB, (16, 5))
  states, _ = routed(model).prefill(params, jnp.asarray(tokens), jnp.asarray(lengths), 0.5)
  if scan:
    params = {'policy': dict(params['policy'])}
    stack = params['policy'].pop('layers')
    params['policy'] |= {f'layer_{i}': jax.tree.map(lambda x, i=i: x[i], stack) for i in range(LAYERS)}
    model = dataclasses.replace(model, config=dataclasses.replace(model.config, scan_layers=False))
  for row, length in enumerate(lengths):
    keep = keeps_by_numpy(model, params, tokens[row, :length])
    assert (abs(keep - 0.5) > 1e-4)[list(model.config.exit_blocks)].all()  # no decision is within rounding
    np.testing.assert_array_equal(bits(states.depth.route)[row], keep >= 0.5)
  assert len({tuple(route) for route in bits(states.depth.route)}) > 1


def test_a_level_that_every_block_reaches_is_the_model_without_exits_bit_for_bit():
  model, params = model_of()
  every, plain = rolled(routed(model), params, level=0.0), rolled(model, params)
  r.assert_same_rows(every, plain, limits=dict.fromkeys(r.NUMBERS, 0.0))
  assert (every.depth.blocks[every.mask] == LAYERS).all() and plain.depth is None


def test_a_route_is_kept_for_the_whole_response_and_all_samples_of_a_prompt(in_float64):
  model, params = model_of()
  rows, narrow = rolled(routed(model), params), rolled(routed(model), params, slots=5)
  prompts = jax.tree.map(jnp.asarray, r.PROMPTS)
  states, _ = rollout.setup.prefill(routed(model), params, prompts, 0.5)
  for row in range(r.P * r.G):
    own = bits(states.depth.route[row // r.G])
    for one in (rows, narrow):
      real = one.mask[row]
      assert (bits(one.depth.route)[row][real] == own).all()
      assert (one.depth.blocks[row, 1:][real[1:]] == own.sum()).all()
  assert len({tuple(route) for route in bits(states.depth.route)}) > 1
  r.assert_same_rows(rows, narrow, limits=r.limits_for(routed(model), params, rows))


def read(model, params, tokens, route, caches, states):
  rows = tokens.shape[0]
  reading = Deciding(
    jnp.zeros((rows, 1), jnp.int32), jnp.full((rows, 1), 0.5), jnp.ones((rows, 1), bool), jnp.float32(0.5), route[:, None]
  )
  return routed(model).extend_policy(params, tokens, jnp.ones(rows, jnp.int32), states, caches, jnp.int32(4), reading)


def test_a_block_runs_where_a_row_keeps_it_and_rows_do_not_disturb_each_other():
  model, params = model_of()
  prompts = jnp.asarray(np.random.default_rng(4).integers(2, VOCAB, (2, 3)))
  states, caches = dataclasses.replace(model, exits=None).prefill(params, prompts, jnp.full(2, 3))
  caches = jax.tree.map(lambda x: jnp.pad(x, ((0, 0), (0, 0), (0, 2), (0, 0))) if x.ndim == 4 else x, caches)
  tokens = jnp.full((2, 1), 5)
  kept = np.ones((2, LAYERS), bool)
  kept[0, 4:7], kept[1, 6:9] = False, False  # both skip block 6 alone
  route = route_of(kept)
  poisoned = dict(params['policy'])
  poisoned['layer_6'] = jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), poisoned['layer_6'])
  clean, dirty = (read(model, p, tokens, route, caches, states)[0] for p in (params, params | {'policy': poisoned}))
  np.testing.assert_array_equal(clean.policy, dirty.policy)
  assert np.isfinite(dirty.policy).all() and clean.depth.blocks.tolist() == [7, 7]
  together = read(model, params, tokens, route, caches, states)[0].policy
  for row in range(2):
    same = jnp.stack([route[row]] * 2)  # the other row takes the same route
    alone = read(model, params, tokens, same, caches, states)[0].policy
    np.testing.assert_allclose(together[row], alone[row], rtol=1e-5, atol=1e-5)


def test_blocks_kept_in_whole_or_not_at_all_are_a_route(precision):
  model, params = model_of()
  kept = np.array([True, True, False, True, False, False, True, True, False, True])
  tokens = jax.random.randint(jax.random.key(1), (3, 9), 2, VOCAB)
  positions, segments = jnp.broadcast_to(jnp.arange(9), tokens.shape), jnp.ones_like(tokens)
  free = positions >= 4
  route = jnp.where(free[..., None], route_of(kept), jnp.uint32(2**32 - 1))
  keep = jnp.where(free[..., None], jnp.asarray(kept, rounding.precision()), 1)
  depth = jnp.where(free, kept.sum(), LAYERS)

  @jax.jit
  def read(params, route, keep):
    forced = Forced(depth, free, jnp.float32(0.5), route, keep)
    return routed(model).states(params, tokens, positions, segments, forced).policy

  hard, soft = read(params, route, None), read(params, None, keep)
  bound = rounding.of_program(read, params, route, None, roundings=2 * rounding.of_decoder(model.config, 9))
  rounding.assert_within(soft, hard, bound)
  whole = model.states(params, tokens, positions, segments).policy
  assert np.abs(np.asarray(whole - hard))[np.asarray(free)].max() > 0.1
  rounding.assert_within(whole[:, :4], hard[:, :4], bound)

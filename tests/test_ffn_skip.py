"""FFN-SkipLLM: the feed-forward networks that it skips, by a loop over blocks in numpy, and what it leaves alone."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rounding
from small import VOCAB, actor_critic

from espo_jax import exits
from espo_jax.model import Deciding, ExitHeads, Forced, token_flops
from espo_jax.model.layers import Together

LAYERS = 6


@rounding.cached
def model_of(zero=(), poisoned=(), scan=False):
  """A model whose feed-forward networks are zero in the blocks `zero`, and all nan in the blocks `poisoned`."""
  model, params = actor_critic(5, num_layers=LAYERS, scan_layers=scan, exits=ExitHeads(1))
  policy = dict(params['policy'])
  for block in (*zero, *poisoned):
    fill = 0.0 if block in zero else jnp.nan
    mlp = jax.tree.map(lambda x, fill=fill: jnp.full_like(x, fill), policy[f'layer_{block}']['mlp'])
    policy[f'layer_{block}'] = policy[f'layer_{block}'] | {'mlp': mlp}
  return model, params | {'policy': policy}


def read(model, params, policy, *, level, rows=1, position=9, live=True):
  """The state after one token behind a prompt of three, the caches, and the prompt's tokens with it."""
  tokens = jnp.asarray(np.random.default_rng(1).integers(2, VOCAB, (rows, 4)))
  states, caches = dataclasses.replace(model, exits=None).prefill(params, tokens[:, :3], jnp.full(rows, 3))
  caches = jax.tree.map(lambda x: jnp.pad(x, ((0, 0), (0, 0), (0, 2), (0, 0))) if x.ndim == 4 else x, caches)
  once = jnp.full((rows, 1), position)
  reading = Deciding(once, jnp.full((rows, 1), 0.5), jnp.broadcast_to(live, (rows, 1)), jnp.float32(level))
  deep = dataclasses.replace(model, exits=policy)
  return *deep.extend_policy(params, tokens[:, 3:], jnp.ones(rows, jnp.int32), states, caches, jnp.int32(4), reading), tokens


def similarities(model, params, tokens):
  """The cosine across each block's feed-forward network at the last token, in numpy float64 from the whole model's streams."""
  positions, ones = jnp.broadcast_to(jnp.arange(4), tokens.shape), jnp.ones(tokens.shape, jnp.int32)
  found = []
  for block in range(LAYERS):
    # The stream before the network is the one that leaves the block with a network of zeros.
    without = dict(params['policy'])
    without[f'layer_{block}'] = without[f'layer_{block}'] | {'mlp': jax.tree.map(jnp.zeros_like, without['layer_0']['mlp'])}
    after = [streams(model, {'policy': p}, tokens, positions, ones)[block] for p in (without, params['policy'])]
    found.append([float((a * b).sum() / np.linalg.norm(a) / np.linalg.norm(b)) for a, b in zip(*after, strict=True)])
  return np.array(found)


def streams(model, params, tokens, positions, ones):
  """The stream that leaves each block but the last, at the last token."""

  def entered(decoder):
    return decoder._trunk(tokens, positions, Together(ones), None, None).entered

  trunk = model._policy.apply({'params': params['policy']}, method=entered)
  return [np.asarray(x, np.float64)[:, -1] for x in trunk[1:]] + [np.ones((tokens.shape[0], model.config.hidden_size))]


def test_networks_are_skipped_behind_the_first_similar_one_outside_the_cold_regions():
  model, params = model_of()
  policy = exits.ffn_skip(first=2, last=1)
  *_, tokens = read(model, params, policy, level=2.0, rows=5)
  cosines = similarities(model, params, tokens)
  levels = np.unique(np.round(cosines[1 : LAYERS - 2], 3))
  seen = set()
  for level in (levels[1:] + levels[:-1]) / 2:
    states, _, _ = read(model, params, policy, level=level, rows=5)
    for row in range(5):
      # Block 2 is the first that may be skipped, and its decision reads the network of block 1.
      skips = [block for block in range(2, LAYERS - 1) if cosines[block - 1, row] >= level]
      count = skips[0] + 1 if skips else LAYERS  # earlier cosines are those of the whole model
      assert states.depth.blocks[row] == count
      seen.add(count)
  assert len(seen) >= 3


def test_networks_of_zeros_have_similarity_1_and_skipping_them_is_exact(precision):
  model, params = model_of(zero=(2, 3, 4))
  policy = exits.ffn_skip(first=3, last=1)
  skipping, cut, _ = read(model, params, policy, level=1 - 1e-5)
  whole, full, _ = read(model, params, policy, level=2.0)
  assert skipping.depth.blocks.tolist() == [4] and whole.depth.blocks.tolist() == [LAYERS]
  np.testing.assert_array_equal(skipping.policy, whole.policy)
  jax.tree.map(np.testing.assert_array_equal, cut, full)


def test_skipped_networks_are_not_computed_and_keys_and_values_before_them_are_those_of_the_whole_model():
  model, params = model_of()
  poisoned = model_of(poisoned=(2, 3, 4))[1]
  policy = exits.ffn_skip(first=2, last=1)
  cut, cut_caches, _ = read(model, params, policy, level=-1.0, rows=3)
  assert cut.depth.blocks.tolist() == [3] * 3
  _, full_caches, _ = read(model, params, policy, level=2.0, rows=3)
  for block in range(3):  # block 2 reads the stream that both have in common
    np.testing.assert_array_equal(cut_caches.policy.keys[block], full_caches.policy.keys[block])
    np.testing.assert_array_equal(cut_caches.policy.values[block], full_caches.policy.values[block])
  assert (np.asarray(cut_caches.policy.keys[5][:, :, 3]) != 0).all()  # attention runs behind skipped networks as well
  # The prompt is read with the sound parameters, as the poisoned networks would spoil its keys.
  tokens = jnp.full((3, 1), 4)
  states, caches = dataclasses.replace(model, exits=None).prefill(params, jnp.full((3, 3), 5), jnp.full(3, 3))
  caches = jax.tree.map(lambda x: jnp.pad(x, ((0, 0), (0, 0), (0, 2), (0, 0))) if x.ndim == 4 else x, caches)
  reading = Deciding(jnp.full((3, 1), 9), jnp.full((3, 1), 0.5), jnp.ones((3, 1), bool), jnp.float32(-1.0))
  deep = dataclasses.replace(model, exits=policy)
  clean, dirty = (
    deep.extend_policy(p, tokens, jnp.ones(3, jnp.int32), states, caches, jnp.int32(4), reading)[0] for p in (params, poisoned)
  )
  np.testing.assert_array_equal(clean.policy, dirty.policy)


@pytest.mark.parametrize(('position', 'depth'), [(0, LAYERS), (3, LAYERS), (4, 3)])
def test_the_first_tokens_of_a_response_are_read_whole(position, depth):
  model, params = model_of()
  states, _, _ = read(model, params, exits.ffn_skip(first=2, last=1, warmup=4), level=-1.0, position=position)
  assert states.depth.blocks.tolist() == [depth]


def test_a_row_skips_what_it_skips_alone(in_float64):
  model, params = model_of()
  policy = exits.ffn_skip(first=1, last=1)
  together, _, _ = read(model, params, policy, level=0.9, rows=5)
  assert len(set(together.depth.blocks.tolist())) > 1
  alone = [
    read(model, params, policy, level=0.9, rows=5, live=(np.arange(5) == row)[:, None])[0].policy[row] for row in range(5)
  ]
  np.testing.assert_allclose(together.policy, jnp.stack(alone), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize('scan', [False, True])
def test_whole_depth_is_the_base_model_bit_for_bit_in_scoring(scan):
  model, params = actor_critic(5, num_layers=LAYERS, scan_layers=scan, exits=ExitHeads(1))
  tokens = jax.random.randint(jax.random.key(1), (3, 9), 0, VOCAB)
  segments, positions = jnp.ones_like(tokens), jnp.broadcast_to(jnp.arange(9), tokens.shape)
  forced = Forced(jnp.full(tokens.shape, LAYERS), segments > 0, jnp.float32(0.1))
  states = dataclasses.replace(model, exits=exits.ffn_skip()).states(params, tokens, positions, segments, forced)
  np.testing.assert_array_equal(states.policy, model.states(params, tokens, positions, segments).policy)


def test_a_skipped_network_costs_what_the_policy_still_computes_of_its_block():
  shape = model_of()[0].config
  sizes = {'attention': 2 * 16 * (2 * 4 * 6 + 2 * 2 * 6), 'keys and values': 2 * 16 * 2 * 2 * 6, 'network': 2 * 3 * 16 * 20}
  costs = {name: token_flops(shape, policy) for name, policy in (('ffn', exits.ffn_skip()), ('exit', exits.threshold()))}
  assert costs['ffn'][:2] == (sizes['attention'] + sizes['network'], sizes['attention'])
  assert costs['exit'][:2] == (sizes['attention'] + sizes['network'], sizes['keys and values'])
  assert token_flops(shape, exits.skipdecode())[1] == token_flops(shape, exits.dynamax())[1] == 0

"""Rematerialisation changes the memory of a gradient and nothing else."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rounding
from small import actor_critic, config

from espo_jax import exits
from espo_jax.configs import ConfigError, default_config, validate
from espo_jax.learner import score
from espo_jax.model import ExitHeads


@functools.cache
def losses(remat: str, scan: bool, layers: int = 4):
  """A loss and its gradient through long sequences, whose attention is cut into parts; its memory; how far rounding goes."""
  model, params = actor_critic(scan_layers=scan, remat=remat, num_layers=layers, hidden_size=64, intermediate_size=128)
  rng = np.random.default_rng(0)
  prompts, tokens = (jnp.asarray(rng.integers(0, 12, (2, n)), jnp.int32) for n in (40, 560))

  def loss(params):
    return score(model, params, prompts, jnp.asarray([40, 7]), tokens, temperature=1.0, chunk=200).logprobs.mean()

  gradient = jax.jit(jax.value_and_grad(loss)).lower(params).compile()
  roundings = 2 * (3 * rounding.of_decoder(model.config, 600) + tokens.size)  # there and back, a mean; of one and the other
  bounds = rounding.of_program(gradient, params, roundings=roundings) if (remat, layers) == ('none', 4) else None
  return gradient(params), gradient.memory_analysis().temp_size_in_bytes, bounds


@pytest.mark.parametrize(('scan', 'least_first'), [(True, ('full', 'dots', 'none')), (False, ('full', 'none'))])
def test_remat_changes_memory_and_nothing_else(scan, least_first):
  """Of unrolled layers a CPU's compiler keeps no less for 'dots' than for 'none' from jax 0.11 on."""
  found = {remat: losses(remat, scan) for remat in least_first}
  (value, gradient), _, bounds = found['none']
  for remat in least_first[:-1]:
    (other, its), *_ = found[remat]
    rounding.assert_within((other, its), (value, gradient), bounds)
  sizes = [found[remat][1] for remat in least_first]
  assert sizes == sorted(set(sizes))


@pytest.mark.parametrize('scan', [False, True])
def test_a_rematerialised_layer_takes_little_memory(scan):
  """A CPU's compiler orders operations as it likes: behind `jax.checkpoint` it recomputed all unrolled layers at once."""
  each = {remat: losses(remat, scan)[1] - losses(remat, scan, 2)[1] for remat in ('full', 'none')}
  assert 0 < each['full'] < 0.2 * each['none']


def test_an_unknown_remat_is_named():
  with pytest.raises(ValueError, match=r"model.remat = 'some' is no such policy; fix: one of none, dots, full"):
    config(remat='some')
  c = default_config()
  c.model.remat = 'some'
  with pytest.raises(ConfigError, match=r"model\.remat = 'some'"):
    validate(c)


@pytest.mark.parametrize(('policy', 'scan'), [(exits.sampled(), False), (exits.dynamax(), True)])
def test_remat_goes_through_exits(scan, policy):
  """A gate stands between the blocks, and what skips one is told of it."""
  rng = np.random.default_rng(0)
  prompts, tokens = (jnp.asarray(rng.integers(0, 12, (2, n)), jnp.int32) for n in (4, 6))
  blocks = jnp.asarray(rng.integers(1, 4, (2, 6)), jnp.int32)
  found = []
  for remat in ('none', 'full'):
    model, params = actor_critic(scan_layers=scan, remat=remat, num_layers=3, exits=ExitHeads(1, 'linear'))
    model = dataclasses.replace(model, exits=policy)

    def loss(params, model=model):
      lengths = jnp.asarray([4, 2])
      return score(model, params, prompts, lengths, tokens, temperature=1.0, chunk=10, blocks=blocks).joint_logprobs.mean()

    found.append(jax.jit(jax.value_and_grad(loss)))
  roundings = 2 * (3 * rounding.of_decoder(model.config, 10) + tokens.size)  # there and back, a mean; of one and the other
  rounding.assert_computes(found[0], (params,), found[1](params), roundings=roundings)

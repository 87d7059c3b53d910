"""The rollout on a mesh of devices is the rollout on one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rollouts import HORIZON, PROMPTS, RULE, STATE, G, P, assert_same_rows, on_mesh, run
from rounding import gamma
from test_head import random_head
from tiny import first_params, tiny_experiment
from tiny import run as train

from espo_jax import compile_check, parallel, rollout, stops
from espo_jax.configs import ConfigError, validate
from espo_jax.types import StopReason


def spread_over(shape, rule=RULE, **options):
  """The rows that `run` gives, sampled on a mesh."""
  return on_mesh(rollout.generate, shape, rule, shadow_share=jnp.float32(0.5), **options)


@pytest.mark.parametrize('shape', [(8, 1, 1), (1, 4, 1), (2, 2, 2)])
def test_a_sample_does_not_depend_on_the_mesh(shape, in_float64):
  """Tokens to the bit, also under tensor parallelism."""
  assert_same_rows(run(), spread_over(shape), which_two=slice(P * G))


def test_neither_do_the_groups_that_end_nor_the_rows_that_are_begun(in_float64):
  rule = stops.dead_groups(group_tokens=5, doubt=0.6)._replace(reason=StopReason.PRUNED)
  rows = PROMPTS.replace(rows=np.array([3, 1, 2, 3, 1, 2], np.int32))
  for shape, its in (((2, 2, 2), {'rule': rule, 'state': STATE.replace(head=random_head(12))}), ((1, 4, 1), {'prompts': rows})):
    one, many = run(**its), spread_over(shape, **its)
    for field in ('length', 'stop_reason', 'shadow'):
      np.testing.assert_array_equal(getattr(many, field)[: P * G], getattr(one, field))
    counts = np.arange(HORIZON) < one.length[:, None]
    np.testing.assert_array_equal(np.where(counts, many.tokens[: P * G], 0), np.where(counts, one.tokens, 0))
    assert (one.stop_reason == StopReason.PRUNED).any() or not one.full_length.all()


def gathering(gather):
  def configure(c):
    c.rollout.gather_weights, c.model.num_layers = gather, 1

  return tiny_experiment(configure, fsdp=4, tensor=2)


def test_gathered_weights_change_no_sample(in_float64):
  """The rollout reads weights split over the tensor axis alone, the update those split over fsdp too; the time is a metric."""
  found = {gather: train(gathering(gather), 2) for gather in (False, True)}
  (state, plain), (other, gathered) = found[False], found[True]
  for one, two in zip(plain, gathered, strict=True):
    assert one['rollout/checksum'] == two['rollout/checksum']
    assert two['seconds/reshard'] > 0
    assert 'seconds/reshard' not in one
  for one, two in zip(jax.tree.leaves(state.params), jax.tree.leaves(other.params), strict=True):
    np.testing.assert_allclose(one, two, rtol=0, atol=2 * gamma(1000, np.float64) / 1e-8)  # two of Adam's updates
    assert one.sharding == two.sharding


def test_gathered_weights_are_gathered_once():
  """The rollout then gathers none."""
  exp = gathering(True)
  params = first_params(exp, 0)
  gathered = exp.gather(params)
  for one, two in zip(jax.tree.leaves(params), jax.tree.leaves(gathered), strict=True):
    np.testing.assert_array_equal(one, two)
    assert 'fsdp' not in two.sharding.spec
  assert any('fsdp' in x.sharding.spec for x in jax.tree.leaves(params))
  programs = [compile_check.Programs(exp.config, exp.mesh) for exp in (gathering(True), gathering(False))]
  found = [compile_check.check(its, 'rollout', limit=1.0) for its in programs]
  rows, columns = params['policy']['layer_0']['mlp']['up_proj']['kernel'].shape
  for checked, gathers in zip(found, (False, True), strict=True):
    cost = checked.counted.once + checked.counted.turn
    assert any(shape.dims == (rows, columns // 2) for _, shape in cost.gathered) == gathers
  # Meanwhile the parameters that the update reads lie there too, and their two moments; the rest are counters.
  own = sum(x.addressable_shards[0].data.nbytes for x in jax.tree.leaves(params))
  assert [its.beside for its in found] == pytest.approx([3 * own, 2 * own], abs=100)

  reshard = compile_check.check(programs[0], 'reshard', limit=1.0)
  received = sum(
    x.nbytes / (2 if 'tensor' in x.sharding.spec else 1) * 3 / 4 for x in jax.tree.leaves(params) if 'fsdp' in x.sharding.spec
  )
  assert reshard.counted.once.sent == {'all-gather': received}
  assert [its.names[0] for its in programs] == ['reshard', 'rollout']


def test_nothing_to_gather_is_an_error():
  exp = tiny_experiment()
  exp.config.rollout.gather_weights = True
  with pytest.raises(ConfigError, match=r'rollout\.gather_weights = True with mesh\.fsdp = 1'):
    validate(exp.config)


def test_activations_are_laid_out_over_the_batch_axes():
  """Where they know a mesh and divide; their values stay."""
  mesh = parallel.make_mesh(1, 4, 2)
  lay_out = jax.jit(lambda x: parallel.constrain(x, 'batch', None))
  for rows, split in ((8, ('data', 'fsdp')), (6, None)):
    x = jax.device_put(jnp.arange(rows * 3.0).reshape(rows, 3), parallel.replicated(mesh))
    out = lay_out(x)
    np.testing.assert_array_equal(out, x)
    assert out.sharding.is_equivalent_to(jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(split)), 2)
  alone = jnp.ones((6, 3))
  assert lay_out(alone).sharding == alone.sharding

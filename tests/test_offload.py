"""Moments in the hosts' memory between two updates: the same numbers on a mesh, and through a checkpoint."""

import jax
import numpy as np
from tiny import first_params, rule_of, run, tiny_experiment

from espo_jax.learner import Checkpoints, init_state, restore
from espo_jax.stages import rl


def experiment(offload: bool):
  def configure(c):
    c.learner.offload_optimizer, c.model.num_layers = offload, 1

  return tiny_experiment(configure, data=2, fsdp=2, tensor=2)


def kinds(state):
  """The memories that moments lie in, and all else."""
  moments = {x.sharding.memory_kind for x in jax.tree.leaves(state.opt_state) if x.ndim}
  return moments, {x.sharding.memory_kind for x in jax.tree.leaves(state.replace(opt_state=None))}


def test_updates_are_the_same_wherever_moments_lie():
  (state, metrics), (plain, expected) = (run(experiment(offload), 2) for offload in (True, False))
  assert kinds(state) == ({'pinned_host'}, {'device'})
  assert kinds(plain) == ({'device'}, {'device'})
  for a, b in zip(*map(jax.tree.leaves, (state, plain)), strict=True):
    np.testing.assert_array_equal(a, b)
    assert a.sharding.spec == b.sharding.spec
  assert metrics[-1]['loss/total'] == expected[-1]['loss/total']


def test_a_checkpoint_brings_moments_back_to_where_they_lay(tmp_path):
  states = {}
  for offload in (True, False):
    exp = experiment(offload)
    optimizer = rl.reinforcement_learner(exp, rule_of(exp)).optimizer
    states[offload] = exp.on_mesh(init_state(first_params(exp, 0), optimizer, rule_of(exp)))
  with Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(1, states[True], done=False)
  for offload, like in states.items():
    assert kinds(restore(tmp_path, like).state) == ({'pinned_host' if offload else 'device'}, {'device'})

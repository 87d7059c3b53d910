"""Training beside a frozen base: adapters and value head learn, nothing else moves or has an optimizer state."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from tiny import first_params, run, tiny_experiment

from espo_jax.model import frozen


def learns(path) -> bool:
  return path[-1].startswith('lora') or 'value' in path


@pytest.mark.parametrize('critic', ['shared', 'separate'])
def test_adapters_learn_and_the_base_stays_to_the_bit(critic):
  def configure(c):
    c.model.param_dtype = 'bfloat16'
    c.model.lora.update(rank=2, alpha=4.0, targets=('q_proj', 'down_proj'))
    c.critic.kind, c.model.num_layers = critic, 1

  exp = tiny_experiment(configure)
  before = jax.device_get(flatten_dict(first_params(exp, 0)))  # before the updates donate it
  state, metrics = run(exp, count=2)
  after = jax.device_get(flatten_dict(state.params))
  assert before.keys() == after.keys()
  for path, x in before.items():
    assert x.dtype == (jnp.float32 if learns(path) else jnp.bfloat16), path
    assert np.array_equal(x, after[path]) != learns(path), path
  moments = {x.shape for x in jax.tree.leaves(state.opt_state) if x.ndim > 1}
  trained = {x.shape for path, x in before.items() if learns(path) and x.ndim > 1}
  assert moments == trained
  assert all(np.isfinite(row['loss/total']) and row['grad_norm'] > 0 for row in metrics)


def test_without_adapters_nothing_is_frozen():
  assert not any(jax.tree.leaves(frozen(first_params(tiny_experiment(), 0))))

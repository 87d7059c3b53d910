"""The rollout on a mesh of devices is the rollout on one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rollouts import EOS, HORIZON, PAD, PROMPTS, RULE, STATE, G, P, assert_same_rows, model_of, run

from espo_jax import parallel, rollout


@pytest.mark.parametrize('shape', [(8, 1, 1), (1, 4, 1), (2, 2, 2)])
def test_a_sample_does_not_depend_on_the_mesh(shape):
  """Tokens to the bit, also under tensor parallelism here: no draw of these rows is within rounding of another token."""
  model, params = model_of('shared')
  mesh = parallel.make_mesh(*shape)
  shardings = parallel.param_shardings(jax.eval_shape(model.init_boxed, jax.random.key(0)), mesh)
  whole, rows = parallel.replicated(mesh), parallel.over_batch(mesh)
  eight = jax.tree.map(lambda x: np.concatenate([x, x[:2]]), PROMPTS)  # as many as divide by every mesh
  options = {'samples': G, 'horizon': HORIZON, 'end_tokens': (EOS,), 'pad_token': PAD, 'slots': 8, 'scan_length': 8}
  spread = rollout.generate(
    model,
    jax.tree.map(jax.device_put, params, shardings),
    RULE,
    jax.device_put(STATE, whole),
    jax.device_put(eight, rows),
    jax.device_put(jax.random.key(7), whole),
    shadow_share=jax.device_put(jnp.float32(0.5), whole),
    mesh=mesh,
    **options,
  )
  assert_same_rows(run(), jax.device_get(spread), which_two=slice(P * G), atol=5e-6)

"""The paged kernels for TPU and GPU, interpreted on a CPU and lowered for both, against a softmax in numpy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu
from rollouts import NEVER, PROMPTS, STATE
from small import actor_critic, config

from espo_jax import rollout
from espo_jax.configs import ConfigError, default_config, validate
from espo_jax.model import paged
from espo_jax.model.attention import cached_attention
from espo_jax.types import Prompts

HEADS, KV_HEADS, ROWS, COLUMNS, CHANNELS = 6, 2, 3, 2 * paged.COLUMNS, 128


@pytest.fixture(scope='module')
def case():
  rng = np.random.default_rng(0)
  queries = rng.normal(size=(ROWS, HEADS, CHANNELS)).astype(np.float32)
  keys, values = rng.normal(size=(2, KV_HEADS, ROWS, COLUMNS, CHANNELS)).astype(np.float32)
  counts = np.array([1, 700, COLUMNS], np.int32)
  wanted = np.zeros(queries.shape)
  for row, count in enumerate(counts):
    for head in range(HEADS):
      group = head // (HEADS // KV_HEADS)
      scores = keys[group, row, :count].astype(np.float64) @ queries[row, head] / np.sqrt(CHANNELS)
      weights = np.exp(scores - scores.max())
      wanted[row, head] = weights @ values[group, row, :count] / weights.sum()
  return tuple(map(jnp.asarray, (queries, keys, values, counts))), wanted


def test_the_tpu_kernel_is_the_softmax_in_bfloat16(case):
  """Its products are in bfloat16, as a TPU's are by default, whatever the inputs' type: 8 bits, of sums of a few units."""
  arguments, wanted = case
  with pltpu.force_tpu_interpret_mode():
    got = paged.on_tpu(*arguments)
  np.testing.assert_allclose(got, wanted, atol=2**-6)
  assert np.abs(np.asarray(got) - wanted).mean() < 2**-9


def test_the_gpu_kernel_is_the_softmax(case, monkeypatch):
  arguments, wanted = case
  monkeypatch.setattr(paged, 'gpu_kernel', functools.partial(paged.gpu_kernel, interpret=True))
  np.testing.assert_allclose(paged.on_gpu(*arguments), wanted, atol=2e-5)


def test_plain_attention_is_the_softmax(case):
  (queries, keys, values, counts), wanted = case
  got = cached_attention(queries[:, None], keys, values, counts - 1, counts.max(), 0, kernels=True)  # a CPU has no kernel
  np.testing.assert_allclose(got[:, 0], wanted, atol=2e-5)


@pytest.mark.parametrize(('platform', 'call'), [('tpu', 'tpu_custom_call'), ('cuda', 'triton')])
def test_each_platform_gets_its_kernel(case, platform, call):
  (queries, keys, values, counts), _ = case

  def lowered(kernels: bool) -> str:
    attend = jax.jit(lambda *xs: cached_attention(*xs, counts.max(), 0, kernels=kernels))
    unstable = [jax.export.DisabledSafetyCheck.custom_call('__gpu$xla.gpu.triton')]  # it is looked at, not kept
    return jax.export.export(attend, platforms=[platform], disabled_checks=unstable)(
      queries[:, None], keys, values, counts
    ).mlir_module()

  assert call in lowered(True) and call not in lowered(False)


def test_a_rollout_with_kernels_asked_for_is_the_same_on_a_cpu():
  def run(**overrides):
    model, params = actor_critic(20, **overrides)
    prompts = Prompts(*(jnp.asarray(x) for x in (PROMPTS.tokens, PROMPTS.lengths, PROMPTS.ids)))
    return rollout.generate(
      model, params, NEVER, STATE, prompts, jax.random.key(7), samples=2, horizon=9, end_tokens=(1,), slots=4
    )

  plain, asked = run(), run(paged_kernels=True)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), plain, asked)


def test_what_the_kernels_cannot_do_is_refused():
  with pytest.raises(ValueError, match=r'model\.paged_kernels = True: the kernels know no window'):
    config(paged_kernels=True, sliding_window=4)
  c = default_config()
  c.model.paged_kernels = True
  c.mesh.data = 2
  with pytest.raises(ConfigError, match=r'model\.paged_kernels = True with mesh'):
    validate(c)

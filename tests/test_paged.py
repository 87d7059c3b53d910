"""The paged kernels for TPU and GPU, interpreted on a CPU and lowered for both, against a softmax in numpy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rounding
from jax.experimental.pallas import tpu as pltpu
from rollouts import NEVER, PROMPTS, STATE
from small import actor_critic, config

from espo_jax import rollout
from espo_jax.configs import ConfigError, default_config, validate
from espo_jax.model import paged
from espo_jax.model.attention import cached_attention
from espo_jax.types import Prompts

pytestmark = pytest.mark.quick

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
  return (queries, keys, values, counts), wanted


def assert_is_the_softmax(got, case):
  """To float32's rounding: that of the scores, which are exponents, and that of two sums over the columns."""
  (queries, keys, values, counts), wanted = case
  bounds = np.zeros(wanted.shape)
  for row, head in np.ndindex(ROWS, HEADS):
    group, count = head // (HEADS // KV_HEADS), counts[row]
    scores = keys[group, row, :count] * queries[row, head].astype(np.float64) / np.sqrt(CHANNELS)
    weights = np.exp(scores.sum(-1) - scores.sum(-1).max())
    error = 2 * rounding.of_sum(scores, axis=1, before=3).max() + rounding.gamma(2 * count + 5)
    bounds[row, head] = error * (weights @ np.abs(values[group, row, :count])) / weights.sum()
  rounding.assert_within(got, wanted, bounds)


def test_the_tpu_kernel_is_the_softmax_in_bfloat16(case):
  """Its products are in bfloat16, as a TPU's are by default, whatever the inputs' type: 8 bits, of sums of a few units."""
  arguments, wanted = case
  with pltpu.force_tpu_interpret_mode():
    got = paged.on_tpu(*map(jnp.asarray, arguments))
  np.testing.assert_allclose(got, wanted, atol=2**-6)
  assert np.abs(np.asarray(got) - wanted).mean() < 2**-9


def test_the_gpu_kernel_is_the_softmax(case, monkeypatch):
  monkeypatch.setattr(paged, 'gpu_kernel', functools.partial(paged.gpu_kernel, interpret=True))
  assert_is_the_softmax(paged.on_gpu(*map(jnp.asarray, case[0])), case)


def test_plain_attention_is_the_softmax(case, precision):
  (queries, keys, values, counts), wanted = case
  counts = jnp.asarray(counts)

  asked = precision == 'float32'  # the kernels, of which a CPU has none, cannot be traced in 64 bits

  @jax.jit
  def run(queries, keys, values):
    return cached_attention(queries[:, None], keys, values, counts - 1, counts.max(), 0, kernels=asked)[:, 0]

  arguments = tuple(jnp.asarray(x, precision) for x in (queries, keys, values))
  rounding.assert_computes(run, arguments, wanted, roundings=CHANNELS + 2 * COLUMNS + 10)


@pytest.mark.parametrize(('platform', 'call'), [('tpu', 'tpu_custom_call'), ('cuda', 'triton')])
def test_each_platform_gets_its_kernel(case, platform, call):
  queries, keys, values, counts = map(jnp.asarray, case[0])
  card = jax.sharding.AbstractDevice('NVIDIA H100 80GB HBM3', num_cores=132, platform='gpu')  # Triton's lowering asks which
  mesh = jax.sharding.AbstractMesh((), (), abstract_device=card if platform == 'cuda' else None)

  def lowered(kernels: bool) -> str:
    attend = jax.jit(lambda *xs: cached_attention(*xs, counts.max(), 0, kernels=kernels))
    unstable = [jax.export.DisabledSafetyCheck.custom_call('__gpu$xla.gpu.triton')]  # it is looked at, not kept
    with jax.sharding.use_abstract_mesh(mesh):
      exported = jax.export.export(attend, platforms=[platform], disabled_checks=unstable)
      return exported(queries[:, None], keys, values, counts).mlir_module()

  assert call in lowered(True) and call not in lowered(False)


def test_a_rollout_with_kernels_asked_for_is_the_same_on_a_cpu():
  prompts = Prompts(*(jnp.asarray(x) for x in (PROMPTS.tokens, PROMPTS.lengths, PROMPTS.ids)))

  def run(**overrides):
    model, params = actor_critic(20, **overrides)
    return rollout.generate(
      model, params, NEVER, STATE, prompts, jax.random.key(7), samples=2, horizon=9, end_tokens=(1,), slots=4
    )

  plain, asked = run(), run(paged_kernels=True)
  bound = 2 * rounding.of_scores(*actor_critic(20), PROMPTS.tokens.shape[1] + 9)  # a regret is of two log-probabilities
  for name, array in vars(plain).items():
    if array is not None:
      inexact = jnp.issubdtype(array.dtype, jnp.floating)
      rounding.assert_within(getattr(asked, name), array, bound if inexact else 0.0)


def test_what_the_kernels_cannot_do_is_refused():
  with pytest.raises(ValueError, match=r'model\.paged_kernels = True: the kernels know no window'):
    config(paged_kernels=True, sliding_window=4)
  c = default_config()
  c.model.paged_kernels = True
  c.mesh.data = 2
  with pytest.raises(ConfigError, match=r'model\.paged_kernels = True with mesh'):
    validate(c)

"""The forms of attention over whole sequences, against the chunked one. Kernels are interpreted, or lowered for a device."""

import re

import elsewhere
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rounding
from jax._src.cudnn import fused_attention_stablehlo
from jax.sharding import NamedSharding, PartitionSpec

from espo_jax import parallel
from espo_jax.compile_check import Programs
from espo_jax.configs import ConfigError, check_attention, check_devices, default_config
from espo_jax.model import ModelConfig, fused, splash
from espo_jax.model.attention import Shared, self_attention

pytestmark = pytest.mark.quick

ROWS, LENGTH, HEADS, KV_HEADS, WIDTH = 2, 700, 4, 2, 16
TPU = jax.sharding.AbstractDevice('TPU v5', num_cores=1, platform='tpu')
CARD = jax.sharding.AbstractDevice('NVIDIA H100 80GB HBM3', num_cores=132, platform='gpu')
CPU = jax.sharding.AbstractDevice('cpu', num_cores=None, platform='cpu')
LIMITS = {'float32': 1e-5, 'bfloat16': 2e-2}  # what a kernel has to keep besides rounding's bounds, of the largest number


def drawn(rows=ROWS, heads=HEADS, kv_heads=KV_HEADS, length=LENGTH, dtype='float32'):
  rng = np.random.default_rng(0)
  queries = rng.standard_normal((rows, length, heads, WIDTH))
  keys, values = rng.standard_normal((2, kv_heads, rows, length, WIDTH))
  segments = np.ones((rows, length), np.int32)
  segments[0, length * 4 // 7 :] = 2  # a boundary within a block
  segments[1:, : length // 3] = 3
  segments[:, length - length // 14 :] = 0  # padding
  return *(jnp.asarray(x, dtype) for x in (queries, keys, values)), jnp.asarray(segments)


def program(form, window):
  """The output, and the gradients of a weighed sum of it over the tokens: queries, keys and values."""

  @jax.jit
  def run(*arrays):
    *inputs, segments = arrays
    weights = jnp.asarray(np.random.default_rng(1).standard_normal(inputs[0].shape), jnp.float32)

    def total(*inputs):
      out = self_attention(*inputs, segments, window, form)
      told = jnp.where(segments[..., None, None] > 0, out, 0)
      return (told.astype(jnp.float32) * weights).sum(), (out, told)

    gradients, (out, told) = jax.grad(total, argnums=(0, 1, 2), has_aux=True)(*inputs)
    return out, (told, *gradients)

  return run


def chunked(window, *arrays):
  """What a kernel has to give, and the bounds, one for each array.

  An attention and its gradient are three passes, with a product over the channels and two sums over the tokens in each. In
  bfloat16 the sums are in float32, so that what is rounded is the arrays between the products, at most four in each pass. The
  movement is measured in float32. By `rounding.LAMBDA` most bounds are wider than `LIMITS`, which kernels have to keep as well.
  """
  run, dtype = program('chunked', window), arrays[0].dtype.name
  _, wanted = run(*arrays)
  roundings = 3 * (WIDTH + 2 * (arrays[3].shape[1] + 5)) if dtype == 'float32' else 3 * 4
  moves = rounding.of_program(run, *(x.astype(jnp.float32) for x in arrays[:3]), arrays[3], roundings=roundings)[1]
  sizes = [np.abs(np.asarray(x, np.float64)).max() for x in wanted]
  assert all(sizes)
  units = rounding.unit(dtype) / rounding.unit('float32')
  return wanted, tuple(min(units * move, LIMITS[dtype] * size) for move, size in zip(moves, sizes, strict=True))


@pytest.fixture
def anywhere():
  with elsewhere.interpreted():
    yield


@pytest.mark.parametrize('dtype', LIMITS)
@pytest.mark.parametrize('window', [0, 130])
@pytest.mark.parametrize('form', ['splash', 'cudnn'])
def test_a_kernel_gives_the_chunked_result_and_its_gradients(anywhere, form, window, dtype):
  arrays = drawn(dtype=dtype)
  out, got = program(form, window)(*arrays)
  rounding.assert_within(got, *chunked(window, *arrays))
  assert np.isfinite(np.asarray(out, np.float64)).all()  # on padding too
  padding = np.asarray(arrays[3]) == 0
  for gradient in (got[1], *(x.transpose(1, 2, 0, 3) for x in got[2:])):
    assert not np.asarray(gradient)[padding].any()


def sharing(window):
  """Two sequences: the first has two prompts with two and three rows, the second one prompt with two rows. Padding ends both.

  Returns:
    The segment of each token, that of its prompt, its position, and what it sees: each prompt is laid out with each of its rows
    by itself.
  """
  laid = [[(1, 150, [2, 3], [60, 90]), (4, 100, [5, 6, 7], [80, 1, 170])], [(9, 333, [8, 3], [200, 99])]]
  segments, prompts, positions = np.zeros((3, ROWS, LENGTH), np.int32)
  seen = np.zeros((ROWS, LENGTH, LENGTH), bool)
  for sequence, groups in enumerate(laid):
    column = 0
    for prompt, size, rows, sizes in groups:
      head = np.arange(column, column + size)
      for segment, tokens in [(prompt, 0), *zip(rows, sizes, strict=True)]:
        row = np.arange(column, column + (tokens or size))
        whole = np.concatenate([head, row]) if tokens else row
        age = np.arange(whole.size)[:, None] - np.arange(whole.size)
        near = (age >= 0) & (age < (window or LENGTH))
        seen[sequence, row[:, None], whole] = near[-row.size :]
        segments[sequence, row], prompts[sequence, row] = segment, prompt
        positions[sequence, row] = np.arange(whole.size)[-row.size :]
        column += row.size
  return segments, prompts, positions, seen


@pytest.mark.parametrize(('form', 'window'), [('chunked', 0), ('chunked', 130), ('cudnn', 130)])
def test_a_row_sees_its_prompt_as_if_it_stood_directly_before(anywhere, form, window):
  arrays = drawn()[:3]
  segments, prompts, positions, seen = (jnp.asarray(x) for x in sharing(window))
  weights = jnp.asarray(np.random.default_rng(1).standard_normal(arrays[0].shape), jnp.float32)

  def together(queries, keys, values):
    return self_attention(queries, keys, values, segments, window, form, Shared(prompts, positions))

  def dense(queries, keys, values):
    grouped = queries.reshape(ROWS, LENGTH, KV_HEADS, -1, WIDTH)
    scores = jnp.einsum('bqjgk,jbsk->bjgqs', grouped, keys) / WIDTH**0.5
    shares = jax.nn.softmax(jnp.where(seen[:, None, None], scores, -1e30), axis=-1)
    return jnp.einsum('bjgqs,jbsk->bqjgk', shares, values).reshape(queries.shape)

  def read(function):
    def total(*arrays):
      out = jnp.where(segments[..., None, None] > 0, function(*arrays), 0)
      return (out * weights).sum(), out

    gradients, out = jax.jit(jax.grad(total, argnums=(0, 1, 2), has_aux=True))(*arrays)
    return out, *gradients

  assert_close(read(together), read(dense), LIMITS['float32'])


def test_splash_refuses_shared_prompts(anywhere):
  *arrays, segments = drawn()
  with pytest.raises(ValueError, match="'splash' of attention takes no shared prompts; fix: form = 'chunked'"):
    self_attention(*arrays, segments, 0, 'splash', Shared(segments, segments))


@pytest.mark.parametrize('form', ['splash', 'cudnn'])
@pytest.mark.parametrize(('heads', 'kv_heads', 'length'), [(4, 4, 257), (3, 1, 640), (2, 1, 5)])
def test_lengths_and_groups(anywhere, form, heads, kv_heads, length):
  """Lengths that are odd, whole blocks, and less than a block; a key head for each query head, and one for all."""
  arrays = drawn(1, heads, kv_heads, length)
  _, got = program(form, 0)(*arrays)
  rounding.assert_within(got, *chunked(0, *arrays))


@pytest.mark.parametrize('form', ['splash', 'cudnn'])
@pytest.mark.parametrize(('shape', 'rows', 'kv_heads'), [((2, 2, 2), 4, 2), ((1, 2, 4), 3, 2)])
def test_a_mesh_gives_the_result_of_one_device(anywhere, form, shape, rows, kv_heads):
  """The second mesh divides neither the rows nor the key heads, so that each device computes all of them."""
  arrays = drawn(rows, HEADS, kv_heads, 130)
  mesh = parallel.make_mesh(*shape)
  spread = [jax.device_put(x, NamedSharding(mesh, PartitionSpec())) for x in arrays]
  _, got = program(form, 0)(*spread)
  rounding.assert_within(got, *chunked(0, *arrays))


def test_a_mesh_splits_rows_and_heads(anywhere, monkeypatch):
  parts = []
  monkeypatch.setattr(splash, 'attend', lambda queries, keys, *_: parts.append((queries.shape, keys.shape)) or queries)
  mesh = parallel.make_mesh(2, 2, 2)
  *arrays, segments = (jax.device_put(x, NamedSharding(mesh, PartitionSpec())) for x in drawn(8, 4, 2, 130))
  jax.eval_shape(lambda *xs: self_attention(*xs, segments, 0, 'splash'), *arrays)
  assert parts == [((2, 130, 1, 2, WIDTH), (1, 2, 130, WIDTH))]


@pytest.mark.parametrize('length', [*range(1, 300, 7), 512, 700, 1024, 1100, 9216])
def test_blocks_add_at_most_an_eighth_of_padding(length):
  size = splash.block(length)
  assert size % 128 == 0  # the kernel computes multiples of a TPU's lanes
  assert -length % size <= max(length // 8, 127)


@pytest.mark.parametrize(
  ('device', 'dtype', 'length', 'form'),
  [
    (TPU, 'bfloat16', 700, 'splash'),
    (TPU, 'float32', 512, 'splash'),
    (TPU, 'float16', 700, 'chunked'),
    (TPU, 'bfloat16', 500, 'chunked'),
    (CARD, 'bfloat16', 700, 'chunked'),
    (CARD, 'float32', 700, 'chunked'),
    (CPU, 'bfloat16', 700, 'chunked'),
  ],
)
def test_auto_takes_splash_on_a_tpu_that_computes_it_and_chunks_elsewhere(device, dtype, length, form):
  mesh = jax.sharding.AbstractMesh((1, 1, 1), parallel.mesh.AXES, abstract_device=device)
  queries = jax.ShapeDtypeStruct((1, length, HEADS, WIDTH), dtype, sharding=NamedSharding(mesh, PartitionSpec()))
  taken = []
  jax.eval_shape(lambda queries: taken.append(fused.chosen('auto', queries)), queries)
  assert taken == [form]


def lowered(platform, form, mesh, length=700):
  whole = NamedSharding(mesh, PartitionSpec())
  described = [jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole) for x in drawn(4, length=length, dtype='bfloat16')]

  def total(queries, keys, values, segments):
    return self_attention(queries, keys, values, segments, 0, form).astype(jnp.float32).sum()

  traced = jax.jit(jax.grad(total, argnums=(0, 1, 2))).trace(*described)
  return traced.lower(lowering_platforms=(platform,)).as_text()


KERNELS = {
  'splash': {'splash_mha_fwd', 'splash_mha_dq', 'splash_mha_dkv'},
  'cudnn': {'__cudnn$fmhaScaleBiasSoftmax', '__cudnn$fmhaScaleBiasSoftmaxBackward'},
  'chunked': set(),
}


@pytest.fixture
def lowers(monkeypatch):
  """Kernels are lowered for devices that are not here."""
  monkeypatch.setattr(fused, 'refusal', lambda *_: '')
  monkeypatch.setattr(fused_attention_stablehlo, 'check_cudnn_version', lambda: 91000)


@pytest.mark.parametrize('shape', [(1, 1, 1), (2, 2, 2)])
@pytest.mark.parametrize(('platform', 'form'), [('tpu', 'splash'), ('cuda', 'cudnn'), ('cuda', 'chunked')])
def test_a_form_is_lowered_to_its_kernels(lowers, platform, form, shape):
  text = lowered(platform, form, parallel.make_mesh(*shape))
  assert set(re.findall(r'splash_mha_(?:fwd|dq|dkv)|__cudnn\$fmhaScaleBiasSoftmax(?:Backward)?', text)) == KERNELS[form]


@pytest.mark.parametrize(('platform', 'form'), [('tpu', 'splash'), ('cuda', 'cudnn')])
def test_no_array_of_a_kernel_has_all_scores_of_a_head(lowers, platform, form):
  text = lowered(platform, form, parallel.make_mesh(1, 1, 1), length=4096)
  arrays = [[int(n) for n in dims.split('x')[:-1]] for dims in re.findall(r'tensor<((?:\d+x)+)\w', text)]
  assert max(np.prod(dims) for dims in arrays) < 4096 * 4096


REFUSED = {
  ('splash', 'float32', 128, 'cpu', 'cpu'): r"model\.attention = 'splash'.* platform cpu; fix: model\.attention = 'auto'",
  (
    'splash',
    'float16',
    128,
    'tpu',
    'TPU v5',
  ): r"model\.attention = 'splash'.*model\.dtype = 'float16'; fix: model\.dtype = 'bf",
  ('cudnn', 'bfloat16', 128, 'gpu', 'gfx942'): r"model\.attention = 'cudnn'.* are gfx942; fix: model\.attention = 'auto'",
  ('cudnn', 'float32', 128, 'gpu', 'NVIDIA H100'): r"model\.attention = 'cudnn'.*model\.dtype = 'float32'; fix: model\.dtype",
  ('cudnn', 'bfloat16', 100, 'gpu', 'NVIDIA H100'): r"model\.attention = 'cudnn'.* not 100; fix: model\.attention = 'auto'",
  ('cudnn', 'bfloat16', 256, 'gpu', 'NVIDIA A100'): r"model\.attention = 'cudnn'.* not 256; fix: model\.attention = 'auto'",
}


@pytest.mark.parametrize('case', REFUSED, ids=str)
def test_a_form_that_the_devices_cannot_compute_is_refused(case):
  form, dtype, head_dim, platform, kind = case
  device = jax.sharding.AbstractDevice(kind, num_cores=1, platform=platform)
  with pytest.raises(ConfigError, match=REFUSED[case]):
    check_attention(ModelConfig(8, attention=form, dtype=dtype, head_dim=head_dim), device)
  check_attention(ModelConfig(8, attention='auto', dtype=dtype, head_dim=head_dim), device)


ACCEPTED = [
  ('cudnn', 'bfloat16', 128, CARD),
  ('cudnn', 'float16', 8, CARD),
  ('splash', 'float32', 256, TPU),
  ('chunked', 'float16', 100, CPU),
]


@pytest.mark.parametrize(('form', 'dtype', 'head_dim', 'device'), ACCEPTED)
def test_a_form_that_the_devices_can_compute_is_accepted(form, dtype, head_dim, device):
  check_attention(ModelConfig(8, attention=form, dtype=dtype, head_dim=head_dim), device)


def test_a_config_with_two_faults_on_a_mesh_is_told_both():
  config, mesh = default_config(), parallel.make_mesh(2, 2, 2)
  config.rollout.slots = 7
  with pytest.raises(ConfigError) as told:
    check_devices(config, ModelConfig(8, attention='splash'), mesh)
  assert [problem.split(' = ')[0] for problem in told.value.problems] == ['rollout.slots', 'model.attention']


def test_the_programs_of_a_config_are_refused_with_a_form_that_its_mesh_cannot_compute():
  config = default_config()
  config.model.attention = 'splash'
  with pytest.raises(ConfigError, match=r"model\.attention = 'splash': the kernel is for TPU"):
    Programs(config, parallel.make_mesh(1, 1, 1))


def test_a_call_is_refused_as_a_config_is():
  with pytest.raises(ValueError, match=r"model\.attention = 'splash': the kernel is for TPU"):
    self_attention(*drawn(), 0, 'splash')


def test_a_form_that_does_not_exist_is_refused():
  with pytest.raises(ValueError, match=r"model\.attention = 'flash' is no such form; fix: one of auto, chunked, splash, cudnn"):
    ModelConfig(8, attention='flash')

"""Hugging Face directories in and out, against transformers on torch."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from hf_models import random_model
from readers import needs_transformers4, transformers4
from rounding import assert_within, of_decoder, of_program
from small import randomised

from espo_jax import parallel
from espo_jax.model import (
  ActorCritic,
  Lora,
  ModelConfig,
  WeightsError,
  apply,
  init,
  load_hf,
  merge,
  read_end_tokens,
  refill_rows,
  save_hf,
)
from espo_jax.model.weights import open_tensors

SIZES = {'vocab_size': 62, 'hidden_size': 32, 'intermediate_size': 40, 'num_hidden_layers': 2}
LLAMA3 = {
  'rope_type': 'llama3',
  'rope_theta': 5e3,
  'factor': 8.0,
  'low_freq_factor': 1.0,
  'high_freq_factor': 4.0,
  'original_max_position_embeddings': 16,
}
YARN = {'rope_type': 'yarn', 'rope_theta': 1e4, 'factor': 4.0, 'original_max_position_embeddings': 32}

# Family, number of query heads, of key-value heads, and what else a configuration of it varies.
CASES = {
  'qwen2-tied': ('Qwen2', 4, 2, {'tie_word_embeddings': True, 'rope_parameters': {'rope_type': 'default', 'rope_theta': 1e6}}),
  'qwen2-untied': ('Qwen2', 2, 1, {'tie_word_embeddings': False, 'rms_norm_eps': 1e-5}),
  'qwen2-multihead': ('Qwen2', 4, 4, {'rope_parameters': {'rope_type': 'linear', 'rope_theta': 1e4, 'factor': 2.0}}),
  'qwen2-windowed': ('Qwen2', 4, 2, {'use_sliding_window': True, 'sliding_window': 4, 'max_window_layers': 1}),
  'qwen2-yarn': ('Qwen2', 4, 2, {'rope_parameters': YARN, 'max_position_embeddings': 128}),
  'qwen3-tied': ('Qwen3', 4, 2, {'head_dim': 16, 'tie_word_embeddings': True}),
  'qwen3-odd-heads': ('Qwen3', 8, 4, {'head_dim': 10, 'tie_word_embeddings': False}),
  'qwen3-bias': (
    'Qwen3',
    4,
    1,
    {'head_dim': 6, 'attention_bias': True, 'rope_parameters': YARN, 'max_position_embeddings': 128},
  ),
  'llama-3.1': ('Llama', 4, 2, {'rope_parameters': LLAMA3, 'max_position_embeddings': 128}),
  'llama-3.2-tied': ('Llama', 8, 2, {'rope_parameters': LLAMA3, 'tie_word_embeddings': True, 'head_dim': 14}),
  'llama-biases': ('Llama', 2, 2, {'attention_bias': True, 'mlp_bias': True, 'head_dim': 22}),
  'mistral-windowed': ('Mistral', 4, 2, {'sliding_window': 5, 'head_dim': 12}),
  'mistral-full': ('Mistral', 4, 1, {'sliding_window': None, 'tie_word_embeddings': True}),
  'mistral-nemo': ('Mistral', 8, 2, {'sliding_window': 3, 'head_dim': 18, 'rms_norm_eps': 1e-5}),
}
# Further ways to stretch the rotation.
STRETCHED = {
  'qwen2-linear': ('Qwen2', 2, 2, {'rope_parameters': {'rope_type': 'linear', 'rope_theta': 1e6, 'factor': 3.0}}),
  'qwen3-llama3': ('Qwen3', 4, 2, {'head_dim': 16, 'rope_parameters': LLAMA3, 'max_position_embeddings': 128}),
  'qwen2-yarn-untruncated': ('Qwen2', 2, 1, {'rope_parameters': YARN | {'truncate': False}}),
  'llama-yarn-bands': (
    'Llama',
    4,
    2,
    {'head_dim': 24, 'rope_parameters': YARN | {'beta_fast': 4.0, 'beta_slow': 0.25, 'truncate': False}},
  ),
  'llama-yarn-mscales': ('Llama', 4, 2, {'rope_parameters': YARN | {'mscale': 1.0, 'mscale_all_dim': 0.5}}),
  'mistral-yarn-attention': (
    'Mistral',
    4,
    2,
    {'rope_parameters': YARN | {'attention_factor': 1.4, 'truncate': False}, 'sliding_window': 5},
  ),
  'mistral-yarn-no-context': (
    'Mistral',
    2,
    2,
    {'rope_parameters': {'rope_type': 'yarn', 'factor': 4.0, 'rope_theta': 1e4}, 'max_position_embeddings': 16},
  ),
  'qwen3-yarn-no-context': (
    'Qwen3',
    2,
    1,
    {'head_dim': 20, 'rope_scaling': {'rope_type': 'yarn', 'factor': 2.0, 'truncate': False}, 'max_position_embeddings': 24},
  ),
}
TOKENS = np.random.default_rng(0).integers(0, 62, (3, 13)).astype(np.int32)
LENGTHS = np.array([13, 9, 1])


def write_model(directory, case, dtype=torch.float32, **options):
  """A random model of `case` in the format of its family."""
  family, heads, kv_heads, extra = (CASES | STRETCHED)[case]
  model = random_model(family, **SIZES, num_attention_heads=heads, num_key_value_heads=kv_heads, **extra).to(dtype)
  model.save_pretrained(directory, **options)
  return model


def torch_logits(model, tokens=TOKENS, lengths=LENGTHS):
  mask = np.arange(tokens.shape[1]) < lengths[:, None]
  with torch.no_grad():
    return model(torch.tensor(tokens, dtype=torch.long), attention_mask=torch.tensor(mask, dtype=torch.long)).logits.numpy()


_apply = jax.jit(apply, static_argnums=0)


def jax_logits(config, params, tokens=TOKENS, lengths=LENGTHS):
  return np.asarray(_apply(config, params, tokens, valid=jnp.arange(tokens.shape[1]) < lengths[:, None]))


def limit_of(config, params, tokens=TOKENS):
  """How far rounding may put two passes over the same weights: those of another library, or of another form of this one."""
  program = functools.partial(jax_logits, config, tokens=tokens)
  return of_program(program, params, roundings=of_decoder(config, tokens.shape[1]))


def on_tokens(logits, lengths=LENGTHS):
  """Logits of real tokens; those of padding mean nothing."""
  return np.concatenate([row[:length] for row, length in zip(logits, lengths, strict=True)])


def stored(directory):
  return {name: np.asarray(tensor.read()) for name, tensor in open_tensors(directory).items()}


# ----------------------------------------------------------------------------------------------------------------- forward


@pytest.mark.parametrize('case', CASES | STRETCHED)
def test_logits_are_those_of_transformers_at_every_position_of_a_right_padded_batch(case, tmp_path):
  model = write_model(tmp_path, case)
  config, params = load_hf(tmp_path)
  expected = torch_logits(model)
  assert np.abs(on_tokens(expected)).max() > 0.5
  assert_within(on_tokens(jax_logits(config, params)), on_tokens(expected), limit_of(config, params))


# One case of each form of attention: plain, windowed in some layers or in all, stretched, with biases, of one head, of many.
FORMS = ('qwen2-untied', 'qwen2-multihead', 'qwen2-windowed', 'qwen3-bias', 'llama-3.2-tied', 'mistral-nemo')


@pytest.mark.parametrize('case', FORMS)
def test_a_padded_row_equals_the_unpadded(case, tmp_path):
  write_model(tmp_path, case)
  config, params = load_hf(tmp_path)
  padded, limit = jax_logits(config, params), limit_of(config, params)
  for row, length in enumerate(LENGTHS):
    alone = jax_logits(config, params, TOKENS[row : row + 1, :length], LENGTHS[row : row + 1])
    assert_within(padded[row, :length], alone[0], limit)


@pytest.mark.parametrize('case', FORMS)
def test_cached_decoding_equals_the_teacher_forced_pass(case, tmp_path):
  write_model(tmp_path, case)
  config, params = load_hf(tmp_path)
  forced, limit = jax_logits(config, params, TOKENS, np.full(3, 13)), limit_of(config, params)
  model = ActorCritic(config)
  everything = {'policy': params | {'value': {'kernel': jnp.zeros((config.hidden_size, 1)), 'bias': jnp.zeros(1)}}}
  lengths = jnp.array([5, 3, 1])
  prefilled = jax.jit(model.prefill)(everything, jnp.asarray(TOKENS), lengths)
  states, caches = refill_rows(prefilled[0], model.init_caches(3, 16), prefilled, jnp.arange(3), jnp.arange(3))
  step, read = (jax.jit(functools.partial(method, everything)) for method in (model.extend_policy, model.logits))
  for i in range(9):
    logits = read(states)
    for row, length in enumerate(lengths):
      assert_within(logits[row], forced[row, length - 1 + i], limit)
    if i < 8:
      new = jnp.take_along_axis(jnp.asarray(TOKENS), (lengths + i)[:, None], axis=1)
      states, caches = step(new, jnp.ones(3, jnp.int32), states, caches, caches.policy.lengths.max() + 1)


def test_scanned_layers_are_unrolled_layers(tmp_path):
  write_model(tmp_path, 'qwen3-bias')
  unrolled, scanned = (load_hf(tmp_path, scan_layers=scan) for scan in (False, True))
  assert_within(jax_logits(*scanned), jax_logits(*unrolled), limit_of(*unrolled))


# ------------------------------------------------------------------------------------------------------------------ export


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize('case', ['qwen2-tied', 'qwen3-odd-heads', 'llama-biases', 'mistral-windowed'])
def test_save_of_load_is_bit_identical(case, dtype, tmp_path):
  write_model(tmp_path / 'in', case, dtype, max_shard_size='20KB')
  config, params = load_hf(tmp_path / 'in')
  assert config.param_dtype == str(dtype).removeprefix('torch.')
  save_hf(tmp_path / 'out', config, params, max_shard_bytes=20_000)
  before, after = stored(tmp_path / 'in'), stored(tmp_path / 'out')
  assert len(list((tmp_path / 'out').glob('*.safetensors'))) > 1
  assert before.keys() == after.keys()
  for name, x in before.items():
    assert x.dtype == after[name].dtype
    assert x.tobytes() == after[name].tobytes(), name
  assert load_hf(tmp_path / 'out')[0] == config


@pytest.fixture(scope='module')
def export(tmp_path_factory):
  """Writes a case once: the directory, the logits of what was written there, and how far rounding may put another's."""

  @functools.cache
  def write(case, scan):
    directory = tmp_path_factory.mktemp('export')
    write_model(directory / 'in', case)
    config, params = load_hf(directory / 'in', scan_layers=scan)
    save_hf(directory / 'out', config, params, end_tokens=(2, 5))
    return directory / 'out', on_tokens(jax_logits(config, params)), limit_of(config, params)

  return write


@pytest.mark.parametrize(
  ('case', 'scan'),
  [(case, scan) for case in CASES for scan in (False, True) if not (scan and case == 'qwen2-windowed')]
  + [(case, False) for case in STRETCHED],
)
def test_transformers_reads_the_export(case, scan, export):
  directory, expected, limit = export(case, scan)
  model, report = transformers.AutoModelForCausalLM.from_pretrained(directory, output_loading_info=True)
  assert not any(report[kind] for kind in ('missing_keys', 'unexpected_keys', 'mismatched_keys'))
  assert_within(on_tokens(torch_logits(model.eval())), expected, limit)
  assert model.generation_config.eos_token_id == [2, 5]
  assert read_end_tokens(directory) == (2, 5)


@needs_transformers4
@pytest.mark.parametrize('case', CASES | STRETCHED)
def test_transformers_4_reads_the_export(case, export):
  directory, expected, limit = export(case, False)
  logits, report = transformers4().logits(directory, TOKENS, LENGTHS)
  assert_within(on_tokens(logits), expected, limit)
  family = (CASES | STRETCHED)[case][0]
  assert report == {'class': f'{family}ForCausalLM', 'not read': [], 'end tokens': [2, 5], 'dtype': 'torch.float32'}


@pytest.mark.parametrize('case', CASES | STRETCHED)
def test_an_export_names_its_class_and_its_rotation_for_every_reader(case, export):
  directory, *_ = export(case, False)
  written = json.loads((directory / 'config.json').read_text())
  family, _, _, asked = (CASES | STRETCHED)[case]
  assert written['architectures'] == [f'{family}ForCausalLM']
  rope = written['rope_parameters']
  assert written['rope_theta'] == rope['rope_theta']
  stretched = {name: value for name, value in rope.items() if name != 'rope_theta'}
  assert written.get('rope_scaling', {'rope_type': 'default'}) == stretched
  assert (asked.get('rope_parameters') or asked.get('rope_scaling') or {}).items() <= rope.items()


def test_weights_arrive_sharded_and_leave_whole(tmp_path):
  write_model(tmp_path / 'in', 'qwen2-untied')
  mesh = parallel.make_mesh(1, 2, 2)
  config, params = load_hf(tmp_path / 'in', mesh=mesh)
  kernel = params['layer_0']['mlp']['gate_proj']['kernel']
  assert kernel.sharding.shard_shape(kernel.shape) == (16, 20)
  single = load_hf(tmp_path / 'in')[1]
  jax.tree.map(np.testing.assert_array_equal, params, single)
  save_hf(tmp_path / 'out', config, params)
  before, after = stored(tmp_path / 'in'), stored(tmp_path / 'out')
  assert all(np.array_equal(before[name], after[name]) for name in before)


def test_a_value_head_is_left_out(tmp_path):
  write_model(tmp_path / 'in', 'qwen2-tied')
  config, params = load_hf(tmp_path / 'in')
  save_hf(tmp_path / 'out', config, params | {'value': {'kernel': jnp.ones((32, 1)), 'bias': jnp.ones(1)}})
  assert stored(tmp_path / 'out').keys() == stored(tmp_path / 'in').keys()


def test_an_export_never_overwrites(tmp_path):
  write_model(tmp_path, 'qwen2-tied')
  with pytest.raises(WeightsError, match='exists already'):
    save_hf(tmp_path, *load_hf(tmp_path))


def test_a_model_that_its_family_cannot_express_is_not_exported(tmp_path):
  write_model(tmp_path / 'in', 'qwen3-tied')
  config, params = load_hf(tmp_path / 'in')
  with pytest.raises(WeightsError, match='llama model has qk_norm = False'):
    save_hf(tmp_path / 'out', type(config)(**(vars(config) | {'family': 'llama'})), params)
  assert not (tmp_path / 'out').exists()


def test_end_tokens_are_the_union_of_both_files(tmp_path):
  write_model(tmp_path, 'qwen2-tied')
  (tmp_path / 'generation_config.json').write_text(json.dumps({'eos_token_id': [7, 9]}))
  assert read_end_tokens(tmp_path) == (2, 7, 9)


def test_layers_that_differ_are_not_scanned(tmp_path):
  write_model(tmp_path, 'qwen2-windowed')
  with pytest.raises(WeightsError, match=r'scan_layers = True scans one layer, but only layers 1\.\. have sliding_window = 4'):
    load_hf(tmp_path, scan_layers=True)


# -------------------------------------------------------------------------------------------------------------------- LoRA


@pytest.mark.parametrize('targets', [('q_proj', 'v_proj'), ('gate_proj', 'down_proj', 'o_proj')])
@pytest.mark.parametrize('scan', [False, True])
def test_merged_adapters_are_applied_adapters(targets, scan, tmp_path):
  write_model(tmp_path / 'in', 'qwen2-untied')
  lora = Lora(rank=3, alpha=2.0, targets=targets)
  config, params = load_hf(tmp_path / 'in', lora=lora, scan_layers=scan, key=jax.random.key(1))
  assert np.array_equal(jax_logits(config, params), jax_logits(*load_hf(tmp_path / 'in', scan_layers=scan)))  # B starts at 0
  random = randomised(params, 1)

  def trained(path, x):
    return random_of(random, path) if path[-1].key.startswith('lora') else x

  params = jax.tree_util.tree_map_with_path(trained, params)
  adapted = {path[-2].key for path, _ in jax.tree_util.tree_leaves_with_path(params) if path[-1].key == 'lora_a'}
  assert adapted == set(targets)
  applied = jax_logits(config, params)
  assert np.abs(applied - jax_logits(*load_hf(tmp_path / 'in'))).max() > 0.1
  bare = type(config)(**(vars(config) | {'lora': Lora()}))
  limit = limit_of(config, params)
  assert_within(jax_logits(bare, merge(config, params)), applied, limit)
  save_hf(tmp_path / 'out', config, params)
  exported = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / 'out').eval()
  assert_within(on_tokens(torch_logits(exported)), on_tokens(applied), limit)


def random_of(tree, path):
  for entry in path:
    tree = tree[entry.key]
  return jnp.asarray(tree)


def test_the_base_of_adapters_keeps_its_dtype(tmp_path):
  write_model(tmp_path, 'qwen2-untied', torch.bfloat16)
  _, params = load_hf(tmp_path, lora=Lora(rank=2))
  q = params['layer_0']['attention']['q_proj']
  assert (q['kernel'].dtype, q['lora_a'].dtype) == (jnp.bfloat16, jnp.float32)


def test_a_llama_has_no_windows_whatever_its_config_says(tmp_path):
  """Transformers' Llama does not read the entry."""
  write_model(tmp_path, 'llama-biases')
  file = tmp_path / 'config.json'
  file.write_text(json.dumps(json.loads(file.read_text()) | {'sliding_window': 4}))
  assert load_hf(tmp_path)[0].sliding_window == 0


@pytest.mark.parametrize('family', ['llama', 'mistral'])
def test_a_model_that_is_saved_without_end_tokens_gets_none(tmp_path, family):
  config = ModelConfig(20, num_layers=1, hidden_size=16, num_heads=2, num_kv_heads=1, family=family)
  save_hf(tmp_path / 'saved', config, init(config, jax.random.key(0)))
  assert read_end_tokens(tmp_path / 'saved') == ()

"""The rotation that `config.json` asks for is transformers' own, entry by entry; what is not read is refused by name."""

import importlib
import json
import math

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import transformers

from espo_jax.model import WeightsError, read_config
from espo_jax.model.rope import frequencies

pytestmark = pytest.mark.quick

FAMILIES = ('qwen2', 'qwen3', 'llama', 'mistral')
SIZES = {
  'vocab_size': 62,
  'hidden_size': 256,
  'intermediate_size': 40,
  'num_hidden_layers': 2,
  'num_attention_heads': 4,
  'num_key_value_heads': 2,
  'max_position_embeddings': 4096,
}
YARN = {'rope_type': 'yarn', 'factor': 4.0, 'original_max_position_embeddings': 1024}
LLAMA3 = {
  'rope_type': 'llama3',
  'factor': 8.0,
  'low_freq_factor': 1.0,
  'high_freq_factor': 4.0,
  'original_max_position_embeddings': 512,
}


def read(directory, raw, family='llama'):
  (directory / 'config.json').write_text(json.dumps(SIZES | {'model_type': family} | raw))
  return read_config(directory)


def of_transformers(raw, family):
  """The frequencies, and the factor on sine and cosine, of the module that transformers' model rotates with."""
  config = transformers.CONFIG_MAPPING[family].from_dict(SIZES | json.loads(json.dumps(raw)))
  module = importlib.import_module(f'transformers.models.{family}.modeling_{family}')
  rotary = getattr(module, f'{family.capitalize()}RotaryEmbedding')(config)
  return rotary.inv_freq.numpy(), rotary.attention_scaling


def assert_rotates_as_transformers(directory, raw, family):
  config = read(directory, raw, family)
  radians, sharpen = frequencies(config)
  expected, scaling = of_transformers(raw, family)
  # transformers raises the base to a power in float32, and divides by `factor` what it then blends.
  np.testing.assert_allclose(radians, expected, rtol=32 * np.finfo(np.float32).eps * max(config.rope_scaling.factor, 1))
  np.testing.assert_allclose(sharpen, scaling, rtol=1e-12)


HONOURED = {
  'no entry at all': {},
  'a base of its own': {'rope_theta': 5e5},
  'a base among the parameters': {'rope_parameters': {'rope_type': 'default', 'rope_theta': 1e6}},
  'linear, a whole factor': {'rope_scaling': {'type': 'linear', 'factor': 3}},
  'llama3': {'rope_scaling': LLAMA3, 'rope_theta': 5e5},
  'both spellings of the type': {'rope_scaling': YARN | {'type': 'yarn'}},
  'scaling added to written parameters': {'rope_parameters': {'rope_type': 'default'}, 'rope_scaling': YARN},
  'scaling beside a base': {'rope_theta': 1e6, 'rope_scaling': YARN, 'rope_parameters': {'rope_theta': 1e6}},
  'yarn': {'rope_scaling': YARN},
  'yarn, bands': {'rope_scaling': YARN | {'beta_fast': 20, 'beta_slow': 2.5}},
  'yarn, bands that are null or 0': {'rope_scaling': YARN | {'beta_fast': None, 'beta_slow': 0}},
  'yarn, bands crossed': {'rope_scaling': YARN | {'beta_fast': 1.0, 'beta_slow': 40.0}},
  'yarn, attention_factor': {'rope_scaling': YARN | {'attention_factor': 1.3}},
  'yarn, a factor below 1': {'rope_scaling': YARN | {'factor': 0.5}},
  'yarn, one mscale alone': {'rope_scaling': YARN | {'mscale': 0.707}},
  'yarn, mscale of 0': {'rope_scaling': YARN | {'mscale': 0, 'mscale_all_dim': 0}},
  'yarn, both mscales': {'rope_scaling': YARN | {'mscale': 1.0, 'mscale_all_dim': 0.8}},
  'yarn, both mscales and attention_factor': {
    'rope_parameters': YARN | {'mscale': 1.0, 'mscale_all_dim': 0.8, 'attention_factor': 0.9}
  },
  'yarn, truncated on request': {'rope_parameters': YARN | {'truncate': True}},
  'yarn, not truncated': {'rope_scaling': YARN | {'truncate': False}},
  'yarn, not truncated, among the parameters': {'rope_parameters': YARN | {'truncate': False, 'rope_theta': 1e6}},
  'yarn, not truncated, small context': {'rope_scaling': YARN | {'truncate': False, 'original_max_position_embeddings': 64}},
  'yarn, not truncated, bands': {'rope_scaling': YARN | {'truncate': False, 'beta_fast': 8.0, 'beta_slow': 0.5}},
  'yarn, no context before stretching': {'rope_scaling': {'type': 'yarn', 'factor': 4.0}},
  'yarn, no context, among the parameters': {'rope_parameters': {'rope_type': 'yarn', 'factor': 2.0, 'rope_theta': 1e6}},
  'yarn, no context, not truncated': {'rope_scaling': {'rope_type': 'yarn', 'factor': 2, 'truncate': False}},
  'yarn, the context beside it': {
    'rope_scaling': {'rope_type': 'yarn', 'factor': 2.0},
    'original_max_position_embeddings': 2048,
  },
  'yarn, no factor': {'rope_scaling': YARN | {'factor': None}},
  'entries that are null': {'rope_scaling': {'type': 'linear', 'factor': 2.0, 'beta_fast': None, 'short_factor': None}},
  'all of every head': {'partial_rotary_factor': 1.0, 'rope_theta': 1e6},
}


@pytest.mark.parametrize('family', FAMILIES)
@pytest.mark.parametrize('case', HONOURED)
def test_every_entry_counts_as_it_does_in_transformers(case, family, tmp_path):
  assert_rotates_as_transformers(tmp_path, HONOURED[case], family)


def numbers(low, high):
  return st.floats(low, high, allow_subnormal=False) | st.integers(math.ceil(max(low, 1)), int(high))


CONTEXTS = st.sampled_from((256, 1000, 2048, 4096))
YARNS = st.fixed_dictionaries(
  {'rope_type': st.just('yarn'), 'factor': numbers(0.5, 40) | st.none()},
  optional={
    'original_max_position_embeddings': CONTEXTS,
    'beta_fast': numbers(0.1, 64),
    'beta_slow': numbers(0.1, 8),
    'attention_factor': numbers(0.1, 2),
    'mscale': numbers(0, 2),
    'mscale_all_dim': numbers(0, 2),
    'truncate': st.booleans(),
  },
)
LLAMA3S = st.fixed_dictionaries(
  {
    'rope_type': st.just('llama3'),
    'factor': numbers(1, 32),
    'low_freq_factor': numbers(0.5, 2),
    'high_freq_factor': numbers(2.5, 8),
    'original_max_position_embeddings': CONTEXTS,
  }
)
LINEARS = st.fixed_dictionaries({'rope_type': st.just('linear'), 'factor': numbers(0.5, 16)})


@hypothesis.settings(max_examples=150, derandomize=True, deadline=None)
@hypothesis.given(
  scaling=YARNS | LLAMA3S | LINEARS,
  field=st.sampled_from(('rope_scaling', 'rope_parameters')),
  theta=numbers(100, 1e7),
  family=st.sampled_from(FAMILIES),
)
def test_random_rotations_are_those_of_transformers(tmp_path_factory, scaling, field, theta, family):
  assert_rotates_as_transformers(tmp_path_factory.getbasetemp(), {field: scaling, 'rope_theta': theta}, family)


REFUSED = {
  'dynamic': ({'rope_scaling': {'type': 'dynamic', 'factor': 2.0}}, r"rope_type = 'dynamic' is not supported; fix: one of"),
  'longrope': (
    {'rope_scaling': {'type': 'longrope', 'short_factor': [1.0], 'long_factor': [2.0]}},
    r"rope_type = 'longrope' is not supported; fix: one of",
  ),
  'mrope': ({'rope_scaling': {'type': 'mrope', 'mrope_section': [8, 12, 12]}}, r"rope_type = 'mrope' is not supported"),
  'a type that is no text': ({'rope_scaling': {'rope_type': ['yarn']}}, r"rope_type = \['yarn'\] is not supported"),
  'two types': ({'rope_scaling': YARN | {'type': 'linear'}}, r"rope_type = 'yarn' and type = 'linear'; fix: rope_type alone"),
  'an entry of another type': (
    {'rope_scaling': {'type': 'linear', 'factor': 2.0, 'beta_fast': 16.0}},
    r"rope_scaling\.beta_fast = 16\.0 is no entry of rope_type = 'linear', which has rope_theta, factor; fix: remove it",
  ),
  'a factor without a type': (
    {'rope_parameters': {'factor': 2.0}},
    r"rope_parameters\.factor = 2\.0 is no entry of rope_type = 'default'",
  ),
  'an entry nobody knows': (
    {'rope_scaling': YARN | {'finetuned': True}},
    r"rope_scaling\.finetuned = True is no entry of rope_type = 'yarn'",
  ),
  'an entry misspelled': ({'rope_scaling': YARN | {'truncated': False}}, r'rope_scaling\.truncated = False is no entry'),
  'a list for heads of images': (
    {'rope_scaling': YARN | {'mrope_section': [8, 12, 12]}},
    r'rope_scaling\.mrope_section = \[8, 12, 12\] is no entry',
  ),
  'parameters for each kind of layer': (
    {'rope_parameters': {'full_attention': {'rope_type': 'default', 'rope_theta': 1e6}}},
    r'rope_parameters\.full_attention = .* is no entry',
  ),
  'truncate is a number': (
    {'rope_scaling': YARN | {'truncate': 0}},
    r'rope_scaling\.truncate = 0: not a truth value; fix: true',
  ),
  'truncate is null': ({'rope_scaling': YARN | {'truncate': None}}, r'rope_scaling\.truncate = None: not a truth value'),
  'a factor of text': ({'rope_scaling': YARN | {'factor': '4'}}, r"rope_scaling\.factor = '4' must be a number above 0"),
  'a factor of true': ({'rope_scaling': YARN | {'factor': True}}, r'rope_scaling\.factor = True must be a number'),
  'an infinite factor': ({'rope_scaling': YARN | {'factor': float('inf')}}, r'rope_scaling\.factor = inf must be a number'),
  'a negative band': ({'rope_scaling': YARN | {'beta_slow': -1.0}}, r'rope_scaling\.beta_slow = -1\.0 must be a number'),
  'half a token of context': (
    {'rope_scaling': YARN | {'original_max_position_embeddings': 1024.5}},
    r'original_max_position_embeddings = 1024\.5 must be a number of tokens',
  ),
  'no context at all': (
    {'rope_scaling': YARN | {'original_max_position_embeddings': 0}},
    r'original_max_position_embeddings = 0 must be a number above 0',
  ),
  'attention without keys': (
    {'rope_scaling': YARN | {'attention_factor': 0.0}},
    r'rope_scaling\.attention_factor = 0\.0 must be a number above 0',
  ),
  'linear without a factor': (
    {'rope_scaling': {'type': 'linear'}},
    r"rope_type = 'linear' needs factor, which rope_scaling lacks",
  ),
  'linear with a factor that is null': ({'rope_scaling': {'type': 'linear', 'factor': None}}, r"'linear' needs factor"),
  'yarn without a factor': ({'rope_scaling': {'type': 'yarn'}}, r"rope_type = 'yarn' needs factor"),
  'llama3 without a band': (
    {'rope_scaling': {name: value for name, value in LLAMA3.items() if name != 'low_freq_factor'}},
    r"rope_type = 'llama3' needs low_freq_factor",
  ),
  'half of every head': ({'partial_rotary_factor': 0.5}, r'partial_rotary_factor is not supported'),
  'half of every head, among the parameters': (
    {'rope_parameters': {'rope_type': 'default', 'partial_rotary_factor': 0.25}},
    r'rope_parameters\.partial_rotary_factor is not supported',
  ),
  'a base of text': ({'rope_theta': '1e6'}, r"rope_theta = '1e6': no base of frequencies; fix: a number above 1"),
  'a base of 0': ({'rope_parameters': {'rope_theta': 0}}, r'rope_parameters\.rope_theta = 0: no base of frequencies'),
  'two bases': (
    {'rope_theta': 1e6, 'rope_parameters': {'rope_type': 'default', 'rope_theta': 5e5}},
    r'rope_theta = 1000000\.0, though rope_theta = 500000\.0 elsewhere; fix: one value in both places',
  ),
  'a base that scaling hides': (
    {'rope_parameters': {'rope_type': 'default', 'rope_theta': 1e6}, 'rope_scaling': YARN},
    r'rope_parameters\.rope_theta = 1000000\.0, though rope_theta = 10000\.0 elsewhere',
  ),
  'two scalings': (
    {'rope_parameters': YARN, 'rope_scaling': YARN | {'factor': 2.0}},
    r'rope_parameters\.factor = 4\.0, though factor = 2\.0 elsewhere',
  ),
  'two contexts': (
    {'rope_scaling': YARN, 'original_max_position_embeddings': 2048},
    r'original_max_position_embeddings = 1024, though original_max_position_embeddings = 2048 elsewhere',
  ),
  'scaling beside text': ({'rope_scaling': YARN, 'rope_parameters': 'yarn'}, r"rope_parameters = 'yarn': not an object"),
}


@pytest.mark.parametrize('case', REFUSED)
def test_an_entry_that_would_be_overlooked_is_refused_by_name(case, tmp_path):
  raw, message = REFUSED[case]
  with pytest.raises(WeightsError, match=rf'config\.json: .*{message}'):
    read(tmp_path, raw)


DTYPES = {
  'float32': 'float32',
  'torch.float32': 'float32',
  'float': 'float32',
  'torch.float': 'float32',
  'bfloat16': 'bfloat16',
  'torch.bfloat16': 'bfloat16',
  'float16': 'float16',
  'torch.float16': 'float16',
  'half': 'float16',
  'torch.half': 'float16',
}


@pytest.mark.parametrize('field', ['dtype', 'torch_dtype'])
@pytest.mark.parametrize('name', DTYPES)
def test_a_dtype_is_read_in_every_spelling(name, field, tmp_path):
  config = read(tmp_path, {field: name})
  assert (config.dtype, config.param_dtype) == (DTYPES[name], DTYPES[name])


def test_the_newer_of_two_dtypes_counts_and_none_is_single_precision(tmp_path):
  assert read(tmp_path, {'dtype': 'torch.bfloat16', 'torch_dtype': 'float32'}).dtype == 'bfloat16'
  assert read(tmp_path, {'dtype': None, 'torch_dtype': 'torch.float16'}).dtype == 'float16'
  assert read(tmp_path, {'torch_dtype': None}).dtype == 'float32'


@pytest.mark.parametrize('name', ['torch.float64', 'int8', 'auto', '', 16, {'': 'bfloat16'}])
def test_another_dtype_is_refused(name, tmp_path):
  with pytest.raises(WeightsError, match=r'torch_dtype = .* is not supported; fix: float32, bfloat16 or float16'):
    read(tmp_path, {'torch_dtype': name})

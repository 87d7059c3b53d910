"""Converts the metadata of a GGUF file to a `ModelConfig`. Each key of the architecture is either read or refused by name."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from espo_jax.model.config import ModelConfig, RopeScaling
from espo_jax.model.families import parse_config
from espo_jax.model.gguf_file import GgufFile
from espo_jax.model.rope import frequencies
from espo_jax.model.weights import WeightsError

ROPE_FACTORS = 'rope_freqs.weight'

# The keys of an architecture, and what config.json calls them.
_SIZES = {
  'block_count': 'num_hidden_layers',
  'context_length': 'max_position_embeddings',
  'embedding_length': 'hidden_size',
  'feed_forward_length': 'intermediate_size',
  'attention.head_count': 'num_attention_heads',
  'attention.head_count_kv': 'num_key_value_heads',
}
_EPSILON, _THETA, _VOCABULARY = 'attention.layer_norm_rms_epsilon', 'rope.freq_base', 'vocab_size'
_HEAD_SIZES = ('attention.key_length', 'attention.value_length', 'rope.dimension_count')
_KIND, _FACTOR, _CONTEXT = 'rope.scaling.type', 'rope.scaling.factor', 'rope.scaling.original_context_length'
_YARN = {
  'rope.scaling.yarn_attn_factor': 'attention_factor',
  'rope.scaling.yarn_beta_fast': 'beta_fast',
  'rope.scaling.yarn_beta_slow': 'beta_slow',
}
_READ = {*_SIZES, _EPSILON, _THETA, _VOCABULARY, *_HEAD_SIZES, _KIND, _FACTOR, _CONTEXT, *_YARN}
_NO_EFFECT = ('tensor_data_layout', 'rope.scaling.finetuned')  # on the model as it is here
# The value of other keys that asks for nothing, where it is not 0, false or empty.
_NEUTRAL = {'attention.causal': True, 'rope.scaling.attn_factor': 1.0, 'rope.scaling.yarn_ext_factor': 1.0}
_LLAMA3 = {'low_freq_factor': 1.0, 'high_freq_factor': 4.0, 'original_max_position_embeddings': 8192}


def read_gguf_config(file: GgufFile, **overrides: Any) -> ModelConfig:
  """The model that the metadata and the tensors' names of a GGUF file describe.

  The dtype is that of the matrices if they share one of 16 bits, otherwise float32, which holds dequantised values exactly.

  Args:
    file: The opened file.
    **overrides: The fields of `ModelConfig` that the user chooses: dtype, param_dtype, scan_layers, lora.

  Raises:
    WeightsError: The file describes a model that this decoder does not support; the message names the key.
  """
  architecture = file.metadata['general.architecture']
  keys = {
    name.removeprefix(f'{architecture}.'): _shortest(value)
    for name, value in file.metadata.items()
    if name.startswith(f'{architecture}.')
  }
  where = f'{file.path}: {architecture}'
  for name, value in keys.items():
    neutral = value == _NEUTRAL[name] if name in _NEUTRAL else not value
    if name not in _READ and name not in _NO_EFFECT and not neutral:
      raise WeightsError(f'{where}.{name} = {value!r} is not supported; fix: a model without it')
  keys.setdefault('attention.head_count_kv', keys.get('attention.head_count'))
  tokens = file.metadata.get('tokenizer.ggml.tokens')
  count = len(tokens) if isinstance(tokens, list) else 0
  keys.setdefault(_VOCABULARY, count)
  for name in (*_SIZES, _VOCABULARY, *(name for name in _HEAD_SIZES if name in keys)):
    if not (type(keys.get(name)) is int and keys[name] > 0):
      raise WeightsError(f'{where}.{name} = {keys.get(name)!r}: not a whole number above 0; fix: a whole file of one model')
  if count > keys[_VOCABULARY]:
    raise WeightsError(
      f'{file.path}: tokenizer.ggml.tokens has {count} entries for a vocabulary of {keys[_VOCABULARY]}; fix: download it again'
    )
  if not isinstance(keys.get(_EPSILON), float):
    raise WeightsError(f'{where}.{_EPSILON} = {keys.get(_EPSILON)!r}: not a number; fix: a whole file of one model')
  entries = {entry: keys[name] for name, entry in _SIZES.items()} | {
    'model_type': architecture,
    'vocab_size': keys[_VOCABULARY],
    'rms_norm_eps': keys[_EPSILON],
    'head_dim': _head_size(where, keys),
    'tie_word_embeddings': 'output.weight' not in file.tensors,
    'attention_bias': 'blk.0.attn_q.bias' in file.tensors,
    'mlp_bias': 'blk.0.ffn_gate.bias' in file.tensors,
    'rope_parameters': {'rope_theta': keys.get(_THETA, 10000.0)} | _rope(where, keys, file),
    'dtype': _dtype(file),
  }
  config = parse_config(file.path, entries, **overrides)
  _check_factors(config, file)
  return config


def _head_size(where: str, keys: Mapping[str, Any]) -> int:
  sizes = {name: keys[name] for name in _HEAD_SIZES if name in keys}
  if len(set(sizes.values())) > 1:
    told = ', '.join(f'{name} = {value!r}' for name, value in sizes.items())
    raise WeightsError(
      f'{where} has {told}, but the channels of a key are those of a value here, and all are rotated; fix: a model in which '
      'they are equal'
    )
  return next(iter(sizes.values()), keys['embedding_length'] // keys['attention.head_count'])


def _rope(where: str, keys: Mapping[str, Any], file: GgufFile) -> dict[str, Any]:
  """The entries of config.json's `rope_parameters` that stretch the rotation."""
  kind = keys.get(_KIND, 'linear' if keys.get(_FACTOR) else 'none')
  if kind not in ('none', 'linear', 'yarn'):
    raise WeightsError(f'{where}.{_KIND} = {kind!r} is not supported; fix: a model with none, linear or yarn')
  if kind != 'none' and not keys.get(_FACTOR):
    raise WeightsError(f'{where}.{_FACTOR} = {keys.get(_FACTOR)!r}, though {_KIND} = {kind!r}; fix: a whole file of one model')
  context = {'original_max_position_embeddings': keys[_CONTEXT]} if _CONTEXT in keys else {}
  if kind == 'yarn':
    given = {entry: keys[name] for name, entry in _YARN.items() if name in keys}
    return {'rope_type': 'yarn', 'factor': keys[_FACTOR]} | context | given
  if kind == 'linear':
    return {'rope_type': 'linear', 'factor': keys[_FACTOR]}
  if ROPE_FACTORS not in file.tensors:
    return {'rope_type': 'default'}
  largest = _shortest(float(file.tensors[ROPE_FACTORS].read().max()))
  return {'rope_type': 'llama3', 'factor': largest} | _LLAMA3 | context


def _check_factors(config: ModelConfig, file: GgufFile) -> None:
  """Refuse frequency factors that are not Llama 3's. The file has only their values, and not what they follow from."""
  if ROPE_FACTORS not in file.tensors:
    return
  stored = file.tensors[ROPE_FACTORS].read()
  implied = frequencies(dataclasses.replace(config, rope_scaling=RopeScaling()))[0] / frequencies(config)[0]
  if config.rope_scaling.rope_type != 'llama3' or stored.shape != implied.shape or not np.allclose(stored, implied, rtol=1e-4):
    wanted = ', '.join(f'{name} = {value}' for name, value in _LLAMA3.items())
    raise WeightsError(
      f'{file.path}: tensor {ROPE_FACTORS!r} of shape {stored.shape}, up to {stored.max():g}, divides the frequencies '
      f'otherwise than Llama 3 with {wanted}; fix: a model of Llama 3, or one without this tensor'
    )


def _dtype(file: GgufFile) -> str:
  kinds = {tensor.dtype.name for tensor in file.tensors.values() if len(tensor.shape) > 1}
  return kinds.pop() if len(kinds) == 1 else 'float32'


def _shortest(value: Any) -> Any:
  """The number that was meant by one stored in 32 bits: the shortest decimal among those that round to it."""
  return float(str(np.float32(value))) if isinstance(value, float) and np.float32(value) == value else value

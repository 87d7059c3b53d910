"""Writes GGUF files the way llama.cpp's converter does, from models and tokenizers of Hugging Face."""

import functools
import pathlib
from unittest import mock

import gguf
import numpy as np
import torch
import transformers
from hf_models import random_model
from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

SIZES = {'vocab_size': 62, 'hidden_size': 32, 'intermediate_size': 64, 'num_hidden_layers': 2, 'max_position_embeddings': 96}
BLOCKED = {'hidden_size': 256, 'intermediate_size': 256, 'num_hidden_layers': 1}  # K-quants have 256 values a block
YARN = {'rope_type': 'yarn', 'rope_theta': 1e4, 'factor': 4.0, 'original_max_position_embeddings': 24}
LLAMA3 = {'rope_type': 'llama3', 'rope_theta': 5e5, 'low_freq_factor': 1.0, 'high_freq_factor': 4.0}
LLAMA3 |= {'original_max_position_embeddings': 8192}

# Family, number of query heads, of key-value heads, and what else a configuration varies.
CASES = {
  'qwen2-tied': ('Qwen2', 4, 2, {'tie_word_embeddings': True, 'rope_parameters': {'rope_type': 'default', 'rope_theta': 1e6}}),
  'qwen2-untied': ('Qwen2', 2, 1, {'tie_word_embeddings': False, 'rms_norm_eps': 1e-5}),
  'qwen2-linear': ('Qwen2', 4, 4, {'rope_parameters': {'rope_type': 'linear', 'rope_theta': 1e4, 'factor': 2.5}}),
  'qwen2-yarn': ('Qwen2', 4, 2, {'rope_parameters': YARN}),
  'qwen3-tied': ('Qwen3', 4, 2, {'head_dim': 16, 'tie_word_embeddings': True}),
  'qwen3-wide': ('Qwen3', 2, 1, {'head_dim': 128}),  # the published one, and all that transformers reads from GGUF
  'qwen3-bias': ('Qwen3', 8, 4, {'head_dim': 10, 'attention_bias': True, 'tie_word_embeddings': False}),
  'qwen3-yarn': ('Qwen3', 4, 1, {'head_dim': 6, 'rope_parameters': YARN | {'beta_fast': 16.0, 'attention_factor': 1.25}}),
  'llama': ('Llama', 4, 2, {'rope_parameters': {'rope_type': 'default', 'rope_theta': 1e4}}),
  'llama-3.1': ('Llama', 2, 1, {'rope_parameters': LLAMA3 | {'factor': 8.0}, 'head_dim': 48}),
  'llama-3.2': ('Llama', 8, 2, {'rope_parameters': LLAMA3 | {'factor': 32.0}, 'tie_word_embeddings': True, 'head_dim': 64}),
  'llama-biases': ('Llama', 2, 2, {'attention_bias': True, 'mlp_bias': True, 'head_dim': 22}),
  'mistral': ('Mistral', 8, 2, {'sliding_window': None, 'head_dim': 12, 'rms_norm_eps': 1e-5}),
}
Q = gguf.GGMLQuantizationType
NAMES = functools.cache(gguf.get_tensor_name_map)  # takes long for many layers
# Where a block has numbers of 16 bits, which scale it, and what makes its values about as large as weights are.
_SCALES = {Q.Q4_K: {0: 4e-4, 2: 3e-3}, Q.Q6_K: {208: 1e-4}}


def make_model(case: str, **sizes):
  """A random model of `case`."""
  family, heads, kv_heads, extra = CASES[case]
  return random_model(family, **(SIZES | sizes), num_attention_heads=heads, num_key_value_heads=kv_heads, **extra)


def write_gguf(path: pathlib.Path, model, kind: str = 'F32', *, keys=None, drop=(), tensors=None) -> pathlib.Path:
  """Write `model`, whose matrices become `kind`; vectors stay float32.

  Args:
    path: The file.
    model: A model of transformers.
    kind: The type of the matrices, as ggml names it.
    keys: Further keys, such as a tokenizer's; a key of the model is replaced. The value says the type.
    drop: The keys and tensors that are left out.
    tensors: Further tensors by name, as arrays of float32 or pairs of bytes and their type.
  """
  metadata = _metadata(model.config) | (keys or {})
  writer = gguf.GGUFWriter(path, metadata.pop('general.architecture'))
  for name, value in metadata.items():
    if name not in drop:
      _add(writer, name, value)
  held = {name: (x, Q.F32) for name, x in (tensors or {}).items() if not isinstance(x, tuple)}
  held |= {name: x for name, x in (tensors or {}).items() if isinstance(x, tuple)}
  for name, (data, which) in (_tensors(model, Q[kind]) | held).items():
    if name not in drop:
      writer.add_tensor(name, data, raw_dtype=which)
  writer.write_header_to_file()
  writer.write_kv_data_to_file()
  writer.write_tensors_to_file()
  writer.close()
  return path


def read_by_transformers(path: pathlib.Path):
  """The model that transformers reads from a GGUF file, without accelerate, which its `from_pretrained` wants for it."""
  config = transformers.AutoConfig.from_pretrained(path.parent, gguf_file=path.name)
  model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
  with mock.patch.object(gguf, 'get_tensor_name_map', NAMES):  # it is asked for by every part of the model
    tensors = load_gguf_checkpoint(str(path), return_tensors=True, model_to_load=model)['tensors']
  absent, unknown = model.load_state_dict(tensors, strict=False)
  assert not unknown and set(absent) <= ({'lm_head.weight'} if config.tie_word_embeddings else set())
  model.tie_weights()
  return model.eval()


def _architecture(config) -> str:
  return 'llama' if config.model_type == 'mistral' else config.model_type


def _metadata(config) -> dict:
  name = _architecture(config)
  head_dim = getattr(config, 'head_dim', None) or config.hidden_size // config.num_attention_heads
  rope = config.rope_parameters
  keys = {
    'block_count': config.num_hidden_layers,
    'context_length': config.max_position_embeddings,
    'embedding_length': config.hidden_size,
    'feed_forward_length': config.intermediate_size,
    'attention.head_count': config.num_attention_heads,
    'attention.head_count_kv': config.num_key_value_heads,
    'attention.layer_norm_rms_epsilon': float(config.rms_norm_eps),
    'rope.freq_base': float(rope['rope_theta']),
    'vocab_size': config.vocab_size,
  }
  if name == 'llama':
    keys['rope.dimension_count'] = head_dim
  if name == 'qwen3':
    keys |= {'attention.key_length': head_dim, 'attention.value_length': head_dim}
  if rope['rope_type'] in ('linear', 'yarn'):
    keys |= {'rope.scaling.type': rope['rope_type'], 'rope.scaling.factor': rope['factor']}
  if rope['rope_type'] == 'yarn':
    keys['rope.scaling.original_context_length'] = rope['original_max_position_embeddings']
    named = {'attention_factor': 'yarn_attn_factor', 'beta_fast': 'yarn_beta_fast', 'beta_slow': 'yarn_beta_slow'}
    keys |= {f'rope.scaling.{key}': rope[entry] for entry, key in named.items() if rope.get(entry) is not None}
  return {'general.architecture': name} | {f'{name}.{key}': value for key, value in keys.items()}


def _add(writer, name, value) -> None:
  if isinstance(value, list):
    writer.add_array(name, value)
  elif isinstance(value, bool):
    writer.add_bool(name, value)
  elif isinstance(value, str):
    writer.add_string(name, value)
  elif isinstance(value, int):
    writer.add_uint32(name, value)
  else:
    writer.add_float32(name, value)


def _tensors(model, kind) -> dict:
  config = model.config
  names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[_architecture(config).upper()], config.num_hidden_layers)
  found = {}
  for name, x in model.state_dict().items():
    if name == 'lm_head.weight' and config.tie_word_embeddings:
      continue
    array = x.float().numpy()
    if _architecture(config) == 'llama' and '.q_proj.' in name:
      array = interleaved(array, config.num_attention_heads)
    if _architecture(config) == 'llama' and '.k_proj.' in name:
      array = interleaved(array, config.num_key_value_heads)
    which = kind if array.ndim > 1 else Q.F32
    found[names.get_name(name, try_suffixes=('.weight', '.bias'))] = (_blocks(array, which), which)
  if config.rope_parameters['rope_type'] == 'llama3':
    found['rope_freqs.weight'] = (_factors(config), Q.F32)
  return found


def interleaved(array: np.ndarray, heads: int) -> np.ndarray:
  """Rows of each head in llama.cpp's order: row `i` of the first half is followed by row `i` of the second half."""
  first, second = np.split(array.reshape(heads, -1, *array.shape[1:]), 2, axis=1)
  return np.stack([first, second], axis=2).reshape(array.shape)


def _factors(config) -> np.ndarray:
  """What divides each frequency, as Llama 3.1 stretches them."""
  rope, dim = config.rope_parameters, config.head_dim
  turns = rope['original_max_position_embeddings'] / (2 * np.pi * rope['rope_theta'] ** (np.arange(0, dim, 2) / dim))
  found = []
  for turn in turns:
    if turn > rope['high_freq_factor']:
      found.append(1.0)
    elif turn < rope['low_freq_factor']:
      found.append(rope['factor'])
    else:
      share = (turn - rope['low_freq_factor']) / (rope['high_freq_factor'] - rope['low_freq_factor'])
      found.append(1 / ((1 - share) / rope['factor'] + share))
  return np.array(found, np.float32)


def _blocks(array: np.ndarray, kind) -> np.ndarray:
  """The array as `kind`. Of the K-quants, which the package gguf cannot make, random blocks stand for it."""
  if kind not in _SCALES:
    return gguf.quantize(array, kind)
  size, width = gguf.GGML_QUANT_SIZES[kind]
  rng = np.random.default_rng(array.size)
  blocks = rng.integers(0, 256, (array.size // size, width), dtype=np.uint8)
  for at, scale in _SCALES[kind].items():
    blocks[:, at : at + 2] = np.full((len(blocks), 1), scale, np.float16).view(np.uint8)
  return blocks.reshape(array.shape[0], -1)

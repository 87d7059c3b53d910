"""Converts Hugging Face's `config.json` to a `ModelConfig` and back. Only this file distinguishes model families.

transformers' own config classes read `config.json`. An export says the same to transformers 4 and 5.
"""

import copy
import json
import pathlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from espo_jax.model.config import ModelConfig
from espo_jax.model.rope_fields import check_rope, read_rope, write_rope
from espo_jax.model.weights import WeightsError, read_json
from espo_jax.names import download, hub_name, to_directory
from espo_jax.parallel.storage import reason

if TYPE_CHECKING:
  from transformers import PreTrainedConfig

# The fields of ModelConfig that each family fixes.
FAMILIES: dict[str, dict[str, bool]] = {
  'qwen2': {'qkv_bias': True, 'out_bias': False, 'mlp_bias': False, 'qk_norm': False},
  'qwen3': {'mlp_bias': False, 'qk_norm': True},
  'llama': {'qk_norm': False},
  'mistral': {'qkv_bias': False, 'out_bias': False, 'mlp_bias': False, 'qk_norm': False},
}
_ARCHITECTURES = {
  'qwen2': 'Qwen2ForCausalLM',
  'qwen3': 'Qwen3ForCausalLM',
  'llama': 'LlamaForCausalLM',
  'mistral': 'MistralForCausalLM',
}
# The keys are torch's names, including its short ones.
_DTYPES = {'float32': 'float32', 'float': 'float32', 'bfloat16': 'bfloat16', 'float16': 'float16', 'half': 'float16'}


def read_config(directory: str | pathlib.Path, **overrides: Any) -> ModelConfig:
  """The model that `directory/config.json` describes.

  Args:
    directory: A Hugging Face model directory.
    **overrides: The fields of `ModelConfig` that the user chooses: dtype, param_dtype, scan_layers, lora.

  Raises:
    WeightsError: There is no such file, or it describes a model that this decoder does not support; the message names the
      field.
  """
  if name := hub_name(directory):
    raise WeightsError(f'{directory}: no such directory here; fix: {download(name)}')
  if advice := to_directory(directory):
    raise WeightsError(f'{directory}: a file and no directory; fix: {advice}')
  path = pathlib.Path(directory) / 'config.json'
  return parse_config(path, read_json(path), **overrides)


def parse_config(path: pathlib.Path, raw: Mapping[str, Any], **overrides: Any) -> ModelConfig:
  """The model that the entries of a `config.json` describe.

  Args:
    path: The file that the entries come from, for messages.
    raw: The entries.
    **overrides: The fields of `ModelConfig` that the user chooses.

  Raises:
    WeightsError: The entries describe a model that this decoder does not support; the message names the field.
  """
  family = raw.get('model_type')
  if family not in FAMILIES:
    raise WeightsError(f'{path}: model_type = {family!r} is not a known family; fix: one of {", ".join(FAMILIES)}')
  dtype = _dtype(path, raw)
  hf = _parse(path, family, raw)
  _refuse(path, hf, 'hidden_act', 'silu')
  bias = getattr(hf, 'attention_bias', False)
  windowed_from = _windowed_from(path, hf)
  fields = {
    'vocab_size': hf.vocab_size,
    'hidden_size': hf.hidden_size,
    'intermediate_size': hf.intermediate_size,
    'num_layers': hf.num_hidden_layers,
    'num_heads': hf.num_attention_heads,
    'num_kv_heads': hf.num_key_value_heads or hf.num_attention_heads,
    'head_dim': getattr(hf, 'head_dim', None) or hf.hidden_size // hf.num_attention_heads,
    'rms_norm_eps': hf.rms_norm_eps,
    'tie_word_embeddings': hf.tie_word_embeddings,
    'sliding_window': 0 if windowed_from is None else hf.sliding_window,
    'windowed_from': windowed_from or 0,
    'dtype': dtype,
    'param_dtype': dtype,
    'family': family,
    'max_position_embeddings': hf.max_position_embeddings,
  }
  fields |= {'qkv_bias': bias, 'out_bias': bias, 'mlp_bias': getattr(hf, 'mlp_bias', False)} | FAMILIES[family]
  sizes = ('vocab_size', 'hidden_size', 'intermediate_size', 'num_layers', 'num_heads', 'num_kv_heads', 'head_dim')
  if bad := [name for name in sizes if fields[name] <= 0]:
    raise WeightsError(f'{path}: {bad[0]} = {fields[bad[0]]}: not a size; fix: a positive number')
  try:
    theta, scaling = read_rope(raw, hf)
    return ModelConfig(**(fields | {'rope_theta': theta, 'rope_scaling': scaling} | overrides))
  except ValueError as error:
    raise WeightsError(f'{path}: {reason(error)}') from error


def write_config(config: ModelConfig, path: pathlib.Path, **extra: Any) -> None:
  """Write `config` as the `config.json` of its family.

  Args:
    config: The shape of the model.
    path: The path of the file.
    **extra: Further entries of the file, such as `eos_token_id`.

  Raises:
    WeightsError: The family cannot express the model; the message names the field.
  """
  if config.family not in FAMILIES:
    raise WeightsError(f'family = {config.family!r} is not known; fix: one of {", ".join(FAMILIES)}')
  for name, value in FAMILIES[config.family].items():
    if getattr(config, name) != value:
      raise WeightsError(f'a {config.family} model has {name} = {value}, this one {not value}; fix: another family')
  if config.qkv_bias != config.out_bias and config.family != 'qwen2':
    raise WeightsError(f'a {config.family} model has biases on all attention projections or on none; fix: qkv_bias = out_bias')
  if config.sliding_window and (config.family == 'llama' or (config.family == 'mistral' and config.windowed_from)):
    raise WeightsError(f'a {config.family} model has no sliding_window from layer {config.windowed_from} on')
  fields = {
    'architectures': [_ARCHITECTURES[config.family]],
    'vocab_size': config.vocab_size,
    'hidden_size': config.hidden_size,
    'intermediate_size': config.intermediate_size,
    'num_hidden_layers': config.num_layers,
    'num_attention_heads': config.num_heads,
    'num_key_value_heads': config.num_kv_heads,
    'head_dim': config.head_dim,
    'rms_norm_eps': config.rms_norm_eps,
    'tie_word_embeddings': config.tie_word_embeddings,
    'max_position_embeddings': config.max_position_embeddings,
    'hidden_act': 'silu',
    'dtype': config.param_dtype,
  } | write_rope(config)
  if config.family == 'qwen2':
    if config.head_dim * config.num_heads != config.hidden_size:
      raise WeightsError(
        f'a qwen2 model has head_dim = hidden_size / num_heads = {config.hidden_size / config.num_heads:g}, this one '
        f'{config.head_dim}; fix: another family'
      )
    del fields['head_dim']
  if config.family in ('qwen2', 'qwen3'):
    fields |= {'use_sliding_window': config.sliding_window > 0, 'max_window_layers': config.windowed_from}
  if config.family in ('qwen2', 'qwen3', 'mistral'):
    fields['sliding_window'] = config.sliding_window or None
  if config.family in ('qwen3', 'llama'):
    fields['attention_bias'] = config.qkv_bias
  if config.family == 'llama':
    fields['mlp_bias'] = config.mlp_bias
  hf = _parse(path, config.family, fields | extra)
  ids = dict.fromkeys(('bos_token_id', 'eos_token_id', 'pad_token_id'))  # in place of the family's defaults
  written = hf.to_dict() | ids | {'model_type': config.family} | fields | extra
  path.write_text(json.dumps({k: v for k, v in written.items() if k != '_name_or_path'}, indent=2) + '\n')


def _parse(path: pathlib.Path, family: str, raw: Mapping[str, Any]) -> 'PreTrainedConfig':
  """Parse with transformers, which knows the defaults and the older field names of every family."""
  from transformers import CONFIG_MAPPING  # imported here because it takes a second

  try:
    check_rope(raw)
  except ValueError as error:
    raise WeightsError(f'{path}: {reason(error)}') from error
  try:
    # Copied, because transformers modifies its input. The dtype is left to `_dtype`: here torch, if installed, would read it.
    entries = {name: copy.deepcopy(value) for name, value in raw.items() if name not in ('dtype', 'torch_dtype')}
    return CONFIG_MAPPING[family].from_dict(entries)
  except Exception as error:  # its validators raise several kinds
    raise WeightsError(f'{path}: {reason(error)}') from error


def _windowed_from(path: pathlib.Path, hf: 'PreTrainedConfig') -> int | None:
  """The index of the first layer with a sliding window, or None."""
  if hf.model_type == 'llama' or not getattr(hf, 'sliding_window', None):  # transformers' Llama ignores the entry
    return None
  kinds = getattr(hf, 'layer_types', None) or ['sliding_attention'] * hf.num_hidden_layers
  if 'sliding_attention' not in kinds:
    return None
  first = kinds.index('sliding_attention')
  if kinds != ['full_attention'] * first + ['sliding_attention'] * (len(kinds) - first):
    raise WeightsError(f'{path}: layer_types = {kinds}: only full layers followed by windowed ones are supported')
  return first


def _refuse(path: pathlib.Path, hf: 'PreTrainedConfig', field: str, wanted: str) -> None:
  if (value := getattr(hf, field)) != wanted:
    raise WeightsError(f'{path}: {field} = {value!r} is not supported; fix: a model with {field} = {wanted!r}')


def _dtype(path: pathlib.Path, raw: Mapping[str, Any]) -> str:
  """The dtype of the weights. Either of two fields names it, with or without the prefix `torch.`."""
  field = 'torch_dtype' if raw.get('dtype') is None else 'dtype'
  name = raw.get(field)
  known = _DTYPES.get(str('float32' if name is None else name).removeprefix('torch.'))
  if known is None:
    raise WeightsError(f'{path}: {field} = {name!r} is not supported; fix: float32, bfloat16 or float16')
  return known

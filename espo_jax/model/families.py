"""Hugging Face's `config.json` as a `ModelConfig` and back: here alone one family is told from another."""

import json
import pathlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from espo_jax.hub import download, hub_name
from espo_jax.model.config import ModelConfig, RopeScaling
from espo_jax.model.weights import WeightsError, read_json

if TYPE_CHECKING:
  from transformers import PreTrainedConfig

# What a family has that the others may not, as fields of ModelConfig.
FAMILIES: dict[str, dict[str, bool]] = {
  'qwen2': {'qkv_bias': True, 'out_bias': False, 'mlp_bias': False, 'qk_norm': False},
  'qwen3': {'mlp_bias': False, 'qk_norm': True},
  'llama': {'qk_norm': False},
  'mistral': {'qkv_bias': False, 'out_bias': False, 'mlp_bias': False, 'qk_norm': False},
}
_ROPE_FIELDS = tuple(RopeScaling.__dataclass_fields__)


def read_config(directory: str | pathlib.Path, **overrides: Any) -> ModelConfig:
  """The model that `directory/config.json` describes.

  Args:
    directory: A Hugging Face model directory.
    **overrides: Fields of `ModelConfig` that are the user's to choose: dtype, param_dtype, scan_layers, lora.

  Raises:
    WeightsError: There is no such file, or it describes something this decoder is not; the message names the field.
  """
  if name := hub_name(directory):
    raise WeightsError(f'{directory}: no such directory here; fix: {download(name)}')
  path = pathlib.Path(directory) / 'config.json'
  raw = read_json(path)
  family = raw.get('model_type')
  if family not in FAMILIES:
    raise WeightsError(f'{path}: model_type = {family!r} is not a known family; fix: one of {", ".join(FAMILIES)}')
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
    'rope_theta': float(hf.rope_parameters['rope_theta']),
    'rms_norm_eps': hf.rms_norm_eps,
    'tie_word_embeddings': hf.tie_word_embeddings,
    'sliding_window': 0 if windowed_from is None else hf.sliding_window,
    'windowed_from': windowed_from or 0,
    'dtype': (name := _dtype(path, hf)),
    'param_dtype': name,
    'family': family,
    'max_position_embeddings': hf.max_position_embeddings,
  }
  fields |= {'qkv_bias': bias, 'out_bias': bias, 'mlp_bias': getattr(hf, 'mlp_bias', False)} | FAMILIES[family]
  sizes = ('vocab_size', 'hidden_size', 'intermediate_size', 'num_layers', 'num_heads', 'num_kv_heads', 'head_dim')
  if bad := [name for name in sizes if fields[name] <= 0]:
    raise WeightsError(f'{path}: {bad[0]} = {fields[bad[0]]}: not a size; fix: a positive number')
  try:
    return ModelConfig(**(fields | {'rope_scaling': _rope(hf.rope_parameters)} | overrides))
  except ValueError as error:
    raise WeightsError(f'{path}: {error}') from error


def write_config(config: ModelConfig, path: pathlib.Path, **extra: Any) -> None:
  """Write `config` as the `config.json` of its family.

  Args:
    config: The model.
    path: The file.
    **extra: Further entries, such as `eos_token_id`.

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
  rope, plain = config.rope_scaling, RopeScaling()
  stretched = {name: getattr(rope, name) for name in _ROPE_FIELDS if getattr(rope, name) != getattr(plain, name)}
  if rope.rope_type == 'llama3':
    stretched |= {'low_freq_factor': rope.low_freq_factor, 'high_freq_factor': rope.high_freq_factor}
  fields = {
    'vocab_size': config.vocab_size,
    'hidden_size': config.hidden_size,
    'intermediate_size': config.intermediate_size,
    'num_hidden_layers': config.num_layers,
    'num_attention_heads': config.num_heads,
    'num_key_value_heads': config.num_kv_heads,
    'head_dim': config.head_dim,
    'rope_parameters': {'rope_type': 'default'} | stretched | {'rope_theta': config.rope_theta},
    'rms_norm_eps': config.rms_norm_eps,
    'tie_word_embeddings': config.tie_word_embeddings,
    'max_position_embeddings': config.max_position_embeddings,
    'hidden_act': 'silu',
    'dtype': config.param_dtype,
  }
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
  architecture = {'qwen2': 'Qwen2', 'qwen3': 'Qwen3', 'llama': 'Llama', 'mistral': 'Mistral'}[config.family]
  written = {'architectures': [f'{architecture}ForCausalLM'], 'model_type': config.family} | hf.to_dict() | fields | extra
  path.write_text(json.dumps({k: v for k, v in written.items() if k != '_name_or_path'}, indent=2) + '\n')


def _parse(path: pathlib.Path, family: str, raw: Mapping[str, Any]) -> 'PreTrainedConfig':
  """Through transformers, which knows every family's defaults and older spellings."""
  from transformers import CONFIG_MAPPING  # here, for it takes a second to import

  if bad := _rope_type(raw):
    raise WeightsError(f'{path}: {bad}')
  try:
    return CONFIG_MAPPING[family].from_dict(dict(raw))
  except Exception as error:  # its validators raise several kinds
    raise WeightsError(f'{path}: {" ".join(str(error).split())}') from error


def _rope_type(raw: Mapping[str, Any]) -> str:
  """What is wrong with the rope type as written, which transformers only warns of."""
  written = raw.get('rope_parameters') or raw.get('rope_scaling') or {}
  if not isinstance(written, Mapping):
    return f'rope_scaling = {written!r}: not an object; fix: {{"rope_type": ..., "factor": ...}} or null'
  kind = written.get('rope_type', written.get('type', 'default'))
  try:
    known = {k: v for k, v in written.items() if k in _ROPE_FIELDS and v is not None}
    RopeScaling(**(known | {'rope_type': kind}))
  except (TypeError, ValueError) as error:
    return str(error)
  if written.get('partial_rotary_factor', 1.0) != 1.0 or raw.get('partial_rotary_factor', 1.0) != 1.0:
    return 'partial_rotary_factor is not supported; every channel of a head is rotated here'
  if kind == 'yarn' and any(written.get(name) for name in ('mscale', 'mscale_all_dim')):
    return 'rope mscale and mscale_all_dim are not supported; fix: attention_factor'
  return ''


def _rope(written: Mapping[str, Any]) -> RopeScaling:
  return RopeScaling(**{name: written[name] for name in _ROPE_FIELDS if written.get(name) is not None})


def _windowed_from(path: pathlib.Path, hf: 'PreTrainedConfig') -> int | None:
  """The first layer with a sliding window, or None."""
  if not getattr(hf, 'sliding_window', None):
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


def _dtype(path: pathlib.Path, hf: 'PreTrainedConfig') -> str:
  name = str(hf.dtype or 'float32').removeprefix('torch.')
  if name not in ('float32', 'bfloat16', 'float16'):
    raise WeightsError(f'{path}: dtype = {name!r} is not supported; fix: float32, bfloat16 or float16')
  return name

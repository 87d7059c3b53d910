"""Reads models in GGUF, llama.cpp's format, and rewrites them as Hugging Face directories. Each tensor is streamed.

The package `gguf` of llama.cpp parses the file and dequantises the tensors. Its names differ from Hugging Face's, and for the
architecture `llama` so does the order of rows: channels that RoPE rotates together lie side by side in the file, and half a
head apart here.
"""

import dataclasses
import pathlib
from collections.abc import Iterable
from typing import Any

import jax
import numpy as np
from jaxtyping import PRNGKeyArray

from espo_jax.model.config import ModelConfig
from espo_jax.model.decoder import Params
from espo_jax.model.gguf_config import ROPE_FACTORS, read_gguf_config
from espo_jax.model.gguf_file import GgufFile, open_gguf
from espo_jax.model.loading import Source, load, read_named
from espo_jax.model.weights import Tensor
from espo_jax.model.writing import write_directory

_OUTER = {
  'model.embed_tokens.weight': 'token_embd.weight',
  'model.norm.weight': 'output_norm.weight',
  'lm_head.weight': 'output.weight',
}
_INNER = {
  'input_layernorm': 'attn_norm',
  'post_attention_layernorm': 'ffn_norm',
  'self_attn.q_proj': 'attn_q',
  'self_attn.k_proj': 'attn_k',
  'self_attn.v_proj': 'attn_v',
  'self_attn.o_proj': 'attn_output',
  'self_attn.q_norm': 'attn_q_norm',
  'self_attn.k_norm': 'attn_k_norm',
  'mlp.gate_proj': 'ffn_gate',
  'mlp.up_proj': 'ffn_up',
  'mlp.down_proj': 'ffn_down',
}
_SHARD_BYTES = 1 << 30


def load_gguf(
  file: str | pathlib.Path,
  *,
  mesh: jax.sharding.Mesh | None = None,
  key: PRNGKeyArray | None = None,
  **overrides: Any,
) -> tuple[ModelConfig, Params]:
  """Load a model from a GGUF file, as `load_hf` does from a directory.

  Quantised weights become float32 unless `param_dtype` says otherwise, because float32 holds their values exactly.

  Args:
    file: The GGUF file.
    mesh: The mesh that the parameters are put on; the first device by default.
    key: The random key that draws adapters where `lora` is overridden.
    **overrides: Fields of `ModelConfig`, such as `dtype`, `param_dtype`, `scan_layers`, `lora`.

  Returns:
    The model's config and the parameters of a `Decoder`.

  Raises:
    WeightsError: The file cannot be used; the message names it, and the tensor or key.
  """
  opened = open_gguf(file)
  config = read_gguf_config(opened, **overrides)
  return config, load(config, _source(config, opened), mesh=mesh, key=key)


def rewrite_gguf(
  file: GgufFile, directory: str | pathlib.Path, *, tokenizer: Any = None, end_tokens: Iterable[int] = ()
) -> ModelConfig:
  """Write the model of a GGUF file as a Hugging Face directory. A gigabyte of tensors, or one tensor, is in memory at a time.

  Args:
    file: The opened file.
    directory: The directory to write, which must not exist.
    tokenizer: The tokenizer to save with the weights; None to save none.
    end_tokens: The end tokens in `generation_config.json`; the tokenizer's by default.

  Returns:
    The model's config.

  Raises:
    WeightsError: The file cannot be used, or the directory exists; the message names it, and the tensor or key.
  """
  config = read_gguf_config(file)
  tensors = read_named(config, _source(config, file))
  write_directory(directory, config, tensors, tokenizer=tokenizer, end_tokens=end_tokens, max_shard_bytes=_SHARD_BYTES)
  return config


def _source(config: ModelConfig, file: GgufFile) -> Source:
  tensors = {name: tensor for name, tensor in file.tensors.items() if name != ROPE_FACTORS}
  if file.metadata['general.architecture'] == 'llama':
    heads = {'attn_q': config.num_heads, 'attn_k': config.num_kv_heads}
    for name, tensor in tensors.items():
      _, _, module = name.removesuffix('.weight').removesuffix('.bias').rpartition('.')
      if module in heads:
        tensors[name] = _in_halves(tensor, heads[module] * config.head_dim, config.head_dim)
  return Source(file.path, tensors, 'the metadata', _name)


def _in_halves(tensor: Tensor, rows: int, head_dim: int) -> Tensor:
  """The tensor with the two channels of each rotated pair half a head apart, which are side by side in the file."""
  order = np.arange(rows).reshape(-1, head_dim // 2, 2).swapaxes(1, 2).ravel()
  return tensor._replace(slices=dataclasses.replace(tensor.slices, order=order))


def _name(name: str) -> str:
  """The name in GGUF files of a tensor with a name of Hugging Face."""
  if name in _OUTER:
    return _OUTER[name]
  _, _, layer, module = name.split('.', 3)
  module, _, kind = module.rpartition('.')
  return f'blk.{layer}.{_INNER[module]}.{kind}'

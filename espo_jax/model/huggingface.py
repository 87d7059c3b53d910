"""Reads and writes Hugging Face weights in safetensors files.

No pickled file is loaded and no remote code runs.
"""

import pathlib
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict
from jax.experimental import multihost_utils
from jaxtyping import PRNGKeyArray

from espo_jax.model.config import ModelConfig
from espo_jax.model.decoder import Params
from espo_jax.model.families import read_config
from espo_jax.model.loading import Source, load, tensor_names
from espo_jax.model.lora import merge
from espo_jax.model.weights import WeightsError, open_tensors, read_json
from espo_jax.model.writing import write_directory


def load_hf(
  directory: str | pathlib.Path,
  *,
  mesh: jax.sharding.Mesh | None = None,
  key: PRNGKeyArray | None = None,
  **overrides: Any,
) -> tuple[ModelConfig, Params]:
  """Load a model from a Hugging Face directory with config.json and safetensors, in one file or many.

  Parameters are read one after the other, shard by shard, directly to their devices. So the host holds the shards of its own
  devices and one further tensor.

  Args:
    directory: The Hugging Face directory.
    mesh: The mesh that the parameters are put on; the first device by default.
    key: The random key that draws adapters where `lora` is overridden.
    **overrides: Fields of `ModelConfig`, such as `dtype`, `param_dtype`, `scan_layers`, `lora`.

  Returns:
    The model's config and the parameters of a `Decoder`.

  Raises:
    WeightsError: The directory cannot be used; the message names the file and the tensor or field.
  """
  config = read_config(directory, **overrides)
  source = Source(pathlib.Path(directory), open_tensors(directory), 'config.json')
  return config, load(config, source, mesh=mesh, key=key)


def save_hf(
  directory: str | pathlib.Path,
  config: ModelConfig,
  params: Params,
  *,
  tokenizer: Any = None,
  end_tokens: Iterable[int] = (),
  max_shard_bytes: int = 4 << 30,
) -> None:
  """Write a directory that transformers and vLLM can read. Adapters are merged; value and exit heads are left out.

  The directory appears complete or not at all. With several processes, all must call this function and the first one writes.

  Args:
    directory: The directory to write, which must not exist.
    config: The shape of the model.
    params: The parameters of the `Decoder`.
    tokenizer: The tokenizer to save with the weights; None to save none.
    end_tokens: The end tokens in `generation_config.json`; the tokenizer's by default.
    max_shard_bytes: The most bytes per file; larger weights are split into several files.

  Raises:
    WeightsError: The directory exists, or the family cannot express the model.
  """
  tensors = _named(config, params)
  write_directory(directory, config, tensors, tokenizer=tokenizer, end_tokens=end_tokens, max_shard_bytes=max_shard_bytes)


def read_end_tokens(directory: str | pathlib.Path) -> tuple[int, ...]:
  """The tokens that end a response: the union of those in `generation_config.json` and `config.json`, which may differ.

  Raises:
    WeightsError: A file is not JSON, or its `eos_token_id` is not a token id or a list of them.
  """
  found: set[int] = set()
  for path in (pathlib.Path(directory) / name for name in ('generation_config.json', 'config.json')):
    ids = read_json(path).get('eos_token_id') if path.exists() else None
    ids = ids if isinstance(ids, list) else [] if ids is None else [ids]
    if not all(type(token) is int and token >= 0 for token in ids):
      raise WeightsError(f'{path}: eos_token_id = {ids!r}: not a token id or a list of them; fix: such as 2 or [2, 3]')
    found |= set(ids)
  return tuple(sorted(found))


def _named(config: ModelConfig, params: Params) -> Iterator[tuple[str, np.ndarray]]:
  """The tensors with the names and the layout of Hugging Face, on the host, one after the other."""
  for path, leaf in flatten_dict(merge(config, params)).items():
    if path[0] in ('value', 'exit_heads'):
      continue
    for i, name in enumerate(tensor_names(config, path)):
      array = _to_host(leaf[i] if path[0] == 'layers' else leaf)
      yield name, np.ascontiguousarray(array.T if path[-1] == 'kernel' else array)


def _to_host(x: jax.Array) -> np.ndarray:
  if x.is_fully_addressable:
    return np.asarray(jax.device_get(x))
  return np.asarray(multihost_utils.process_allgather(x, tiled=True))

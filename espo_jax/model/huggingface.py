"""Reads and writes Hugging Face weights in safetensors files. Each tensor is streamed to the devices that hold it.

No pickled file is loaded and no remote code runs.
"""

import json
import pathlib
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.experimental import multihost_utils
from jaxtyping import PRNGKeyArray, PyTree
from safetensors.numpy import save_file

from espo_jax import parallel
from espo_jax.model.config import ModelConfig
from espo_jax.model.decoder import Params, init_boxed
from espo_jax.model.families import read_config, write_config
from espo_jax.model.lora import merge
from espo_jax.model.tokenizer_files import save_tokenizer
from espo_jax.model.weights import INDEX, SINGLE, Tensor, WeightsError, open_tensors, read_json

Path = tuple[str, ...]

_MODULES = {
  'attention_norm': 'input_layernorm',
  'mlp_norm': 'post_attention_layernorm',
  'attention': 'self_attn',
  'final_norm': 'model.norm',
  'kernel': 'weight',
  'scale': 'weight',
}
_BUFFERS = re.compile(r'\.rotary_emb\.inv_freq$')  # old files hold this buffer, which the config determines


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
  mesh = parallel.make_mesh(1, 1, 1) if mesh is None else mesh
  boxed = jax.eval_shape(lambda: init_boxed(config, jax.random.key(0)))
  shardings = flatten_dict(parallel.param_shardings(boxed, mesh))
  wanted = {
    path: leaf
    for path, leaf in flatten_dict(nn.unbox(boxed)).items()
    if not (path[-1].startswith('lora') or path[0] == 'exit_heads')
  }
  tensors = open_tensors(directory)
  _check(config, wanted, tensors, pathlib.Path(directory))
  loaded = {path: _load(config, path, leaf, shardings[path], tensors) for path, leaf in wanted.items()}
  key = jax.random.key(0) if key is None else key
  return config, complete(unflatten_dict(loaded), lambda key: init_boxed(config, key), key, mesh)


def complete(given: Params, init: Callable[[PRNGKeyArray], PyTree], key: PRNGKeyArray, mesh: jax.sharding.Mesh) -> Params:
  """The parameters that `init` makes, with those in `given` replaced. XLA prunes the computation of the replaced ones.

  Args:
    given: Some of the parameters, already on their devices.
    init: A function from a key to all parameters, in boxes that name their logical axes.
    key: The random key for `init`.
    mesh: The mesh that the other parameters are put on.
  """
  have = flatten_dict(given)
  shardings = flatten_dict(parallel.param_shardings(jax.eval_shape(init, key), mesh))
  lacking = {path: sharding for path, sharding in shardings.items() if path not in have}

  def make(key: PRNGKeyArray) -> dict[Path, jax.Array]:
    made = flatten_dict(nn.unbox(init(key)))
    return {path: made[path] for path in lacking}

  return unflatten_dict(have | (jax.jit(make, out_shardings=lacking)(key) if lacking else {}))


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
  directory = pathlib.Path(directory)
  if directory.exists():
    raise WeightsError(f'{directory}: exists already, and is not overwritten; fix: another directory')
  partial = directory.with_name(f'.{directory.name}.partial')
  ids: dict[str, Any] = {'eos_token_id': sorted(set(end_tokens))}
  if tokenizer is not None:
    ids['eos_token_id'] = ids['eos_token_id'] or [tokenizer.eos_token_id]
    ids |= {'pad_token_id': tokenizer.pad_token_id, 'bos_token_id': tokenizer.bos_token_id}
  ids = {name: (value[0] if isinstance(value, list) and len(value) == 1 else value) for name, value in ids.items()}
  ids = {name: value for name, value in ids.items() if value not in (None, [])}
  params = flatten_dict(merge(config, params))
  writes = jax.process_index() == 0
  if writes:
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    write_config(config, partial / 'config.json', **ids)
    (partial / 'generation_config.json').write_text(json.dumps(ids, indent=2) + '\n')
    if tokenizer is not None:
      save_tokenizer(tokenizer, partial)
  weight_map: dict[str, int] = {}
  shards = 0
  for shard in _shards(config, params, max_shard_bytes):
    shards += 1
    weight_map |= dict.fromkeys(shard, shards)
    if writes:
      save_file(shard, partial / f'{shards}.safetensors', metadata={'format': 'pt'})
  if writes:
    if shards == 1:
      (partial / '1.safetensors').rename(partial / SINGLE)
    else:
      names = {i: f'model-{i:05d}-of-{shards:05d}.safetensors' for i in range(1, shards + 1)}
      for i, name in names.items():
        (partial / f'{i}.safetensors').rename(partial / name)
      index = {
        'metadata': {'total_size': sum(x.size * x.dtype.itemsize for x in params.values())},
        'weight_map': {tensor: names[i] for tensor, i in weight_map.items()},
      }
      (partial / INDEX).write_text(json.dumps(index, indent=2) + '\n')
    partial.rename(directory)
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(f'save_hf {directory}')


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


# ----------------------------------------------------------------------------------------------------------------- names


def _names(config: ModelConfig, path: Path) -> list[str]:
  """The names of a parameter in the files: one name, or one name per layer where layers are stacked."""
  if path == ('embedding',):
    return ['model.embed_tokens.weight']
  words = [_MODULES.get(word, word) for word in path]
  if path[0] == 'layers':
    return ['.'.join(['model.layers', str(i), *words[1:]]) for i in range(config.num_layers)]
  if path[0].startswith('layer_'):
    words[0] = f'model.layers.{path[0].removeprefix("layer_")}'
  return ['.'.join(words)]


def _stored_shape(path: Path, shape: tuple[int, ...]) -> tuple[int, ...]:
  """The shape of one layer's tensor in the file, in which kernels are transposed."""
  shape = shape[1:] if path[0] == 'layers' else shape
  return shape[::-1] if path[-1] == 'kernel' else shape


def _check(config: ModelConfig, wanted: dict[Path, Any], tensors: dict[str, Tensor], directory: pathlib.Path) -> None:
  expected = {name: _stored_shape(path, leaf.shape) for path, leaf in wanted.items() for name in _names(config, path)}
  for name, shape in expected.items():
    if name not in tensors:
      raise WeightsError(f'{directory}: tensor {name!r} of shape {shape} is missing; fix: weights that fit config.json')
    if tensors[name].shape != shape:
      raise WeightsError(
        f'{tensors[name].file}: tensor {name!r} has shape {tensors[name].shape}, config.json asks for {shape}; '
        'fix: weights and config of one model'
      )
  for name in sorted(tensors.keys() - expected.keys()):
    if _BUFFERS.search(name):
      continue
    if name == 'lm_head.weight' and _same(tensors[name], tensors['model.embed_tokens.weight']):
      continue
    advice = 'tie_word_embeddings = false' if name == 'lm_head.weight' else 'weights that fit config.json'
    raise WeightsError(
      f'{tensors[name].file}: tensor {name!r} of shape {tensors[name].shape} is unexpected: config.json describes a model '
      f'without it; fix: {advice}'
    )


def _same(one: Tensor, other: Tensor) -> bool:
  """Whether two tensors hold the same values, compared piece by piece."""
  if one.shape != other.shape:
    return False
  pieces = [slice(i, min(i + 4096, one.shape[0])) for i in range(0, one.shape[0], 4096)]
  return all(np.array_equal(one.read(piece), other.read(piece)) for piece in pieces)


def _load(config: ModelConfig, path: Path, leaf: Any, sharding: jax.sharding.Sharding, tensors: dict[str, Tensor]) -> jax.Array:
  sources = [tensors[name] for name in _names(config, path)]
  transposed, stacked = path[-1] == 'kernel', path[0] == 'layers'
  read: dict[str, np.ndarray] = {}  # replicas read the same part once

  def part(tensor: Tensor, index: tuple[slice, ...]) -> np.ndarray:
    array = tensor.read(*(index[::-1] if transposed else index))
    return np.ascontiguousarray(array.T if transposed else array).astype(leaf.dtype, copy=False)

  def shard(index: tuple[slice, ...] | None) -> np.ndarray:
    assert index is not None
    if str(index) not in read:
      chosen = sources[index[0]] if stacked else sources
      parts = [part(tensor, index[1:] if stacked else index) for tensor in chosen]
      read[str(index)] = np.stack(parts) if stacked else parts[0]
    return read[str(index)]

  # Waiting frees the host's copy before the next tensor is read.
  return jax.block_until_ready(jax.make_array_from_callback(leaf.shape, sharding, shard))


def _shards(config: ModelConfig, params: dict[Path, jax.Array], max_bytes: int) -> Iterator[dict[str, np.ndarray]]:
  """The tensors by name, grouped into files of at most `max_bytes` or a single tensor."""
  shard: dict[str, np.ndarray] = {}
  size = 0
  for path, leaf in params.items():
    if path[0] in ('value', 'exit_heads'):
      continue
    names = _names(config, path)
    for i, name in enumerate(names):
      array = _to_host(leaf[i] if path[0] == 'layers' else leaf)
      array = np.ascontiguousarray(array.T if path[-1] == 'kernel' else array)
      if shard and size + array.nbytes > max_bytes:
        yield shard
        shard, size = {}, 0
      shard[name] = array
      size += array.nbytes
  yield shard


def _to_host(x: jax.Array) -> np.ndarray:
  if x.is_fully_addressable:
    return np.asarray(jax.device_get(x))
  return np.asarray(multihost_utils.process_allgather(x, tiled=True))

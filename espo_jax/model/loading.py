"""Puts the tensors of a model's files into the parameters of a decoder. Each tensor is streamed to the devices that hold it."""

import pathlib
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import PRNGKeyArray, PyTree

from espo_jax import parallel
from espo_jax.model.config import ModelConfig
from espo_jax.model.decoder import Params, init_boxed
from espo_jax.model.weights import Tensor, WeightsError

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


class Source(NamedTuple):
  """The files of a model."""

  path: pathlib.Path  # a directory or a file, for messages
  tensors: Mapping[str, Tensor]  # by their names in the files
  metadata: str  # what describes the model, for messages
  named: Callable[[str], str] = str  # from Hugging Face's name of a tensor to its name in the files


def load(config: ModelConfig, source: Source, *, mesh: jax.sharding.Mesh | None, key: PRNGKeyArray | None) -> Params:
  """The parameters of a `Decoder`, read one after the other, shard by shard, directly to their devices.

  Args:
    config: The shape of the model.
    source: The files of the model.
    mesh: The mesh that the parameters are put on; None for the first device.
    key: The random key that draws adapters and exit heads; None for a fixed one.

  Raises:
    WeightsError: The tensors do not fit the config; the message names the file and the tensor.
  """
  mesh = parallel.make_mesh(1, 1, 1) if mesh is None else mesh
  boxed = jax.eval_shape(lambda: init_boxed(config, jax.random.key(0)))
  shardings = flatten_dict(parallel.param_shardings(boxed, mesh))
  wanted = _stored(nn.unbox(boxed))
  _check(config, wanted, source)
  loaded = {path: _load(config, path, leaf, shardings[path], source) for path, leaf in wanted.items()}
  key = jax.random.key(0) if key is None else key
  return complete(unflatten_dict(loaded), lambda key: init_boxed(config, key), key, mesh)


def read_named(config: ModelConfig, source: Source) -> Iterator[tuple[str, np.ndarray]]:
  """The tensors of a model with the names of Hugging Face, one after the other, in `config.param_dtype`.

  Args:
    config: The shape of the model, without adapters and exit heads.
    source: The files of the model.

  Raises:
    WeightsError: The tensors do not fit the config; the message names the file and the tensor.
  """
  wanted = _stored(nn.unbox(jax.eval_shape(lambda: init_boxed(config, jax.random.key(0)))))
  _check(config, wanted, source)
  for path, leaf in wanted.items():
    for name in tensor_names(config, path):
      yield name, source.tensors[source.named(name)].read().astype(leaf.dtype, copy=False)


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


def tensor_names(config: ModelConfig, path: Path) -> list[str]:
  """The names that Hugging Face gives a parameter: one name, or one name per layer where layers are stacked."""
  if path == ('embedding',):
    return ['model.embed_tokens.weight']
  words = [_MODULES.get(word, word) for word in path]
  if path[0] == 'layers':
    return ['.'.join(['model.layers', str(i), *words[1:]]) for i in range(config.num_layers)]
  if path[0].startswith('layer_'):
    words[0] = f'model.layers.{path[0].removeprefix("layer_")}'
  return ['.'.join(words)]


def _stored(params: PyTree) -> dict[Path, Any]:
  """The parameters that files hold: all but adapters and exit heads."""
  every = flatten_dict(params)
  return {path: leaf for path, leaf in every.items() if not (path[-1].startswith('lora') or path[0] == 'exit_heads')}


def _stored_shape(path: Path, shape: tuple[int, ...]) -> tuple[int, ...]:
  """The shape of one layer's tensor in the file, in which kernels are transposed."""
  shape = shape[1:] if path[0] == 'layers' else shape
  return shape[::-1] if path[-1] == 'kernel' else shape


def _check(config: ModelConfig, wanted: dict[Path, Any], source: Source) -> None:
  tensors, metadata = source.tensors, source.metadata
  expected = {
    source.named(name): _stored_shape(path, leaf.shape) for path, leaf in wanted.items() for name in tensor_names(config, path)
  }
  for name, shape in expected.items():
    if name not in tensors:
      raise WeightsError(f'{source.path}: tensor {name!r} of shape {shape} is missing; fix: weights that fit {metadata}')
    if tensors[name].shape != shape:
      raise WeightsError(
        f'{tensors[name].file}: tensor {name!r} has shape {tensors[name].shape}, {metadata} asks for {shape}; '
        'fix: weights and config of one model'
      )
  for name in sorted(tensors.keys() - expected.keys()):
    if _BUFFERS.search(name):
      continue
    if name == 'lm_head.weight' and _same(tensors[name], tensors['model.embed_tokens.weight']):
      continue
    advice = 'tie_word_embeddings = false' if name == 'lm_head.weight' else f'weights that fit {metadata}'
    raise WeightsError(
      f'{tensors[name].file}: tensor {name!r} of shape {tensors[name].shape} is unexpected: {metadata} describes a model '
      f'without it; fix: {advice}'
    )


def _same(one: Tensor, other: Tensor) -> bool:
  """Whether two tensors hold the same values, compared piece by piece."""
  if one.shape != other.shape:
    return False
  pieces = [slice(i, min(i + 4096, one.shape[0])) for i in range(0, one.shape[0], 4096)]
  return all(np.array_equal(one.read(piece), other.read(piece)) for piece in pieces)


def _load(config: ModelConfig, path: Path, leaf: Any, sharding: jax.sharding.Sharding, source: Source) -> jax.Array:
  sources = [source.tensors[source.named(name)] for name in tensor_names(config, path)]
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

"""Writes a Hugging Face directory: config.json, tokenizer and safetensors, of which few bytes are in memory at a time."""

import contextlib
import json
import pathlib
import shutil
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from safetensors.numpy import save_file

from espo_jax import parallel
from espo_jax.model.config import ModelConfig
from espo_jax.model.families import write_config
from espo_jax.model.tokenizer_files import save_tokenizer
from espo_jax.model.weights import INDEX, SINGLE, WeightsError
from espo_jax.parallel.storage import writing


def write_directory(
  directory: str | pathlib.Path,
  config: ModelConfig,
  tensors: Iterable[tuple[str, np.ndarray]],
  *,
  tokenizer: Any = None,
  end_tokens: Iterable[int] = (),
  max_shard_bytes: int,
) -> None:
  """Write a directory that transformers and vLLM can read, complete or not at all.

  With several processes, all must call this function and the first one writes.

  Args:
    directory: The directory to write, which must not exist.
    config: The shape of the model.
    tensors: The tensors by Hugging Face's names. They are asked for one after the other, while files are written.
    tokenizer: The tokenizer to save with the weights; None to save none.
    end_tokens: The end tokens in `generation_config.json`; the tokenizer's by default.
    max_shard_bytes: The most bytes per file; larger weights are split into several files.

  Raises:
    WeightsError: The directory exists, or the family cannot express the model.
  """
  directory = pathlib.Path(directory)
  if directory.exists():
    raise WeightsError(f'{directory}: exists already, and is not overwritten; fix: another directory')
  ids: dict[str, Any] = {'eos_token_id': sorted(set(end_tokens))}
  if tokenizer is not None:
    ids['eos_token_id'] = ids['eos_token_id'] or [tokenizer.eos_token_id]
    ids |= {'pad_token_id': tokenizer.pad_token_id, 'bos_token_id': tokenizer.bos_token_id}
  ids = {name: (value[0] if isinstance(value, list) and len(value) == 1 else value) for name, value in ids.items()}
  ids = {name: value for name, value in ids.items() if value not in (None, [])}
  writes = parallel.is_first()
  with _appearing(directory) as partial:
    if writes:
      with writing(directory):
        partial.mkdir(parents=True)
        write_config(config, partial / 'config.json', **ids)
        (partial / 'generation_config.json').write_text(json.dumps(ids, indent=2) + '\n')
        if tokenizer is not None:
          save_tokenizer(tokenizer, partial)
    weight_map: dict[str, int] = {}
    shards = size = 0
    for shard in _shards(tensors, max_shard_bytes):
      shards += 1
      weight_map |= dict.fromkeys(shard, shards)
      size += sum(array.nbytes for array in shard.values())
      if writes:
        with writing(directory):
          save_file(shard, partial / f'{shards}.safetensors', metadata={'format': 'pt'})
    if writes:
      with writing(directory):
        _name_shards(partial, shards, weight_map, size)
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(f'write_directory {directory}')


@contextlib.contextmanager
def _appearing(directory: pathlib.Path) -> Iterator[pathlib.Path]:
  """Yields the path of a folder that becomes the directory in the end. After an error nothing is left of it."""
  partial = directory.with_name(f'.{directory.name}.partial')
  first = parallel.is_first()
  if first:
    shutil.rmtree(partial, ignore_errors=True)
  try:
    yield partial
    if first:
      partial.rename(directory)
  except BaseException:
    if first:
      shutil.rmtree(partial, ignore_errors=True)
    raise


def _name_shards(folder: pathlib.Path, shards: int, weight_map: Mapping[str, int], size: int) -> None:
  """Gives the files `NUMBER.safetensors` the names that readers expect, and writes their index if there are several."""
  if shards == 1:
    (folder / '1.safetensors').rename(folder / SINGLE)
    return
  names = {i: f'model-{i:05d}-of-{shards:05d}.safetensors' for i in range(1, shards + 1)}
  for i, name in names.items():
    (folder / f'{i}.safetensors').rename(folder / name)
  index = {'metadata': {'total_size': size}, 'weight_map': {tensor: names[i] for tensor, i in weight_map.items()}}
  (folder / INDEX).write_text(json.dumps(index, indent=2) + '\n')


def _shards(tensors: Iterable[tuple[str, np.ndarray]], max_bytes: int) -> Iterator[dict[str, np.ndarray]]:
  """The tensors by name, grouped into files of at most `max_bytes` or a single tensor."""
  shard: dict[str, np.ndarray] = {}
  size = 0
  for name, array in tensors:
    if shard and size + array.nbytes > max_bytes:
      yield shard
      shard.clear()  # not a new one: the caller still holds the last
      size = 0
    shard[name] = array
    size += array.nbytes
  yield shard

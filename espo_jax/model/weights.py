"""Finds tensors by name in a directory of safetensors files, and reads them slice by slice."""

import json
import pathlib
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from espo_jax.parallel.storage import reason

# ml_dtypes registers bfloat16 with NumPy, which safetensors returns.
DTYPES = {'F32': np.dtype(np.float32), 'BF16': np.dtype(ml_dtypes.bfloat16), 'F16': np.dtype(np.float16)}
SINGLE, INDEX = 'model.safetensors', 'model.safetensors.index.json'
_PICKLED = ('.bin', '.pt', '.pth', '.ckpt')


class WeightsError(ValueError):
  """A model directory cannot be used. The message names the file, the tensor or field, and the fix."""


class Tensor(NamedTuple):
  """A tensor on disk."""

  name: str
  file: pathlib.Path
  shape: tuple[int, ...]
  dtype: np.dtype
  slices: Any  # safetensors' lazy view, which reads when it is indexed

  def read(self, *index: slice) -> np.ndarray:
    """The slice `index`, or the whole tensor, in the stored dtype."""
    return self.slices[index] if index else self.slices[:]


def read_json(path: pathlib.Path) -> dict[str, Any]:
  """The object in a JSON file."""
  try:
    value = json.loads(path.read_text())
  except OSError as error:
    raise WeightsError(f'{path}: {error.strerror}; fix: a Hugging Face model directory, with {path.name} in it') from error
  except (ValueError, RecursionError) as error:
    raise WeightsError(f'{path}: not JSON ({reason(error)}); fix: download it again') from error
  if not isinstance(value, dict):
    raise WeightsError(f'{path}: not an object but {type(value).__name__}; fix: download it again')
  return value


def open_tensors(directory: str | pathlib.Path) -> dict[str, Tensor]:
  """The tensors of a model directory by name. Their values are not read yet.

  Raises:
    WeightsError: There are no safetensors files, one is missing, cut short or no such file, or a dtype is not a float's.
  """
  directory = pathlib.Path(directory)
  tensors: dict[str, Tensor] = {}
  for file, promised in _files(directory).items():
    found = _open(file)
    if absent := sorted(promised - found.keys()):
      raise WeightsError(f'{file}: tensor {absent[0]!r} is missing, though {INDEX} says it is there; fix: download both again')
    if twice := sorted(found.keys() & tensors.keys()):
      raise WeightsError(f'{file}: tensor {twice[0]!r} is in {tensors[twice[0]].file} too; fix: remove one')
    tensors |= found
  return tensors


def _files(directory: pathlib.Path) -> dict[pathlib.Path, set[str]]:
  """The files, each with the names of the tensors that the index lists in it."""
  if (directory / INDEX).exists():
    weight_map = read_json(directory / INDEX).get('weight_map')
    if not isinstance(weight_map, dict) or not weight_map or not all(isinstance(file, str) for file in weight_map.values()):
      raise WeightsError(f"{directory / INDEX}: field 'weight_map': not a map from tensors to files; fix: download it again")
    files: dict[pathlib.Path, set[str]] = {}
    for tensor, name in weight_map.items():
      if pathlib.PurePath(name).name != name:
        raise WeightsError(f'{directory / INDEX}: {name!r} is not the name of a file beside it; fix: download it again')
      files.setdefault(directory / name, set()).add(tensor)
    return files
  if (directory / SINGLE).exists():
    return {directory / SINGLE: set()}
  pickled = sorted(path.name for path in directory.glob('*') if path.suffix in _PICKLED)
  if pickled:
    raise WeightsError(
      f'{directory / pickled[0]}: pickled weights are refused, for unpickling runs whatever code the file holds; '
      'fix: a revision with safetensors files, or convert them where you trust the source'
    )
  raise WeightsError(f'{directory}: neither {SINGLE} nor {INDEX}; fix: a Hugging Face model directory')


def _open(file: pathlib.Path) -> dict[str, Tensor]:
  try:
    handle = safe_open(file, framework='np')
    views = {name: handle.get_slice(name) for name in handle.keys()}  # noqa: SIM118
  except FileNotFoundError as error:
    raise WeightsError(f'{file}: no such file, though {INDEX} names it; fix: download it') from error
  except (SafetensorError, OSError) as error:
    raise WeightsError(f'{file}: cut short or no safetensors file ({reason(error)}); fix: download it again') from error
  tensors = {}
  for name, view in views.items():
    if view.get_dtype() not in DTYPES:
      raise WeightsError(
        f'{file}: tensor {name!r} has dtype {view.get_dtype()}; fix: weights in float32, bfloat16 or float16, not quantised'
      )
    tensors[name] = Tensor(name, file, tuple(view.get_shape()), DTYPES[view.get_dtype()], view)
  return tensors

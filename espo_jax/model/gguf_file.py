"""Opens a GGUF file, llama.cpp's format: its metadata, and tensors that are dequantised slice by slice when they are read."""

import dataclasses
import pathlib
import sys
from types import ModuleType
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from espo_jax.model.weights import Tensor, WeightsError

_MAGIC = b'GGUF'
_ARCHITECTURES = ('llama', 'qwen2', 'qwen3')
_DTYPES = {'F16': np.dtype(np.float16), 'BF16': np.dtype(ml_dtypes.bfloat16)}  # all others are read as float32


class GgufFile(NamedTuple):
  """What a GGUF file holds."""

  path: pathlib.Path
  metadata: dict[str, Any]  # numbers, truth values, text and lists of them, by llama.cpp's keys
  tensors: dict[str, Tensor]  # by llama.cpp's names


@dataclasses.dataclass(frozen=True)
class Blocks:
  """The blocks of a tensor in the file. An index returns the values there.

  Attributes:
    data: The array in the file: one row of blocks per row of the tensor, or one row for a vector.
    kind: The tensor's type, a `gguf.GGMLQuantizationType`.
    dtype: The dtype of the values that are returned.
    order: The row in the file of each row of the tensor; None where they are the same.
  """

  data: np.ndarray
  kind: Any
  dtype: np.dtype
  order: np.ndarray | None = None

  def __getitem__(self, index: slice | tuple[slice, ...]) -> np.ndarray:
    """Dequantises the rows of the index."""
    rows, *columns = index if isinstance(index, tuple) else (index,)
    chosen = rows if self.order is None else self.order[rows]
    if self.data.ndim == 1:
      return self._values(self.data)[chosen]
    return self._values(self.data[chosen])[(slice(None), *columns)]

  def _values(self, blocks: np.ndarray) -> np.ndarray:
    import gguf

    return gguf.dequantize(blocks, self.kind).astype(self.dtype, copy=False)


def open_gguf(file: str | pathlib.Path) -> GgufFile:
  """Open a GGUF file. The values of its tensors are not read yet.

  Args:
    file: The path of the file.

  Raises:
    WeightsError: The package `gguf` is missing, or the file is none of GGUF, cut short, one part of several, of the other byte
      order, of an architecture that is not supported, or holds a tensor that cannot be dequantised. The message names the file,
      the value and the fix.
  """
  path = pathlib.Path(file)
  try:
    with path.open('rb') as stream:
      magic = stream.read(len(_MAGIC))
  except OSError as error:
    raise WeightsError(f'{path}: {error.strerror}; fix: the path of a GGUF file') from error
  if magic != _MAGIC:
    raise WeightsError(f'{path}: no GGUF file, because it begins with {magic!r} and not with {_MAGIC!r}; fix: a GGUF file')
  gguf = _package(path)
  try:
    reader = gguf.GGUFReader(path)
    metadata = {name: field.contents() for name, field in reader.fields.items()}
  except (ValueError, IndexError, KeyError, OverflowError) as error:  # all that its reader raises on a damaged file
    reason = ' '.join(str(error).split())
    raise WeightsError(f'{path}: cut short or damaged ({type(error).__name__}: {reason}); fix: download it again') from error
  if reader.byte_order != 'I':
    raise WeightsError(f'{path}: its byte order is not that of this machine; fix: a {sys.byteorder}-endian file')
  if (parts := metadata.get('split.count', 1)) not in (0, 1):
    raise WeightsError(
      f"{path}: split.count = {parts}: one part of a model in {parts} files; fix: one file, as llama.cpp's "
      'llama-gguf-split --merge writes it'
    )
  if (architecture := metadata.get('general.architecture')) not in _ARCHITECTURES:
    raise WeightsError(
      f'{path}: general.architecture = {architecture!r} is not supported; fix: one of {", ".join(_ARCHITECTURES)}, which are '
      'Llama and Mistral, Qwen2 and Qwen2.5, Qwen3'
    )
  return GgufFile(path, metadata, {tensor.name: _tensor(gguf, path, tensor) for tensor in reader.tensors})


def _tensor(gguf: ModuleType, path: pathlib.Path, tensor: Any) -> Tensor:
  kind = tensor.tensor_type
  dtype = _DTYPES.get(kind.name, np.dtype(np.float32))
  try:
    gguf.dequantize(np.zeros((1, gguf.GGML_QUANT_SIZES[kind][1]), np.uint8), kind)
  except NotImplementedError as error:
    raise WeightsError(
      f'{path}: tensor {tensor.name!r} has type {kind.name}, which the package gguf cannot dequantise; fix: '
      'pip install --upgrade gguf, or a file of another quantisation, such as Q8_0'
    ) from error
  return Tensor(tensor.name, path, tuple(tensor.shape.tolist()[::-1]), dtype, Blocks(tensor.data, kind, dtype))


def _package(path: pathlib.Path) -> ModuleType:
  """The package `gguf`, which is imported where it is needed because few need it."""
  try:
    import gguf
  except ImportError as error:
    raise WeightsError(f'{path}: the package gguf, which reads it, is not installed; fix: pip install gguf') from error
  return gguf

"""Writes files atomically, so that a killed process leaves the old file or the new one, and JSON that every reader accepts."""

import json
import math
import os
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from espo_jax.parallel.storage import writing

if TYPE_CHECKING:
  from matplotlib.figure import Figure


def ending(path: Path, suffix: str) -> Path:
  """Returns the path with a suffix after its name. Unlike `Path.with_suffix` it keeps a name with dots, such as `qwen2.5`."""
  return path.with_name(path.name + suffix)


def atomic_write_text(path: str | os.PathLike[str], text: str) -> None:
  """Replaces the file at `path` by `text` in one step. Its folder is created if it is missing."""
  _atomic_write(Path(path), lambda file: file.write(text.encode()))


def atomic_write_arrays(path: str | os.PathLike[str], arrays: Mapping[str, Any]) -> None:
  """Replaces the NumPy archive at `path` in one step. Equal arrays give equal files. Its folder is created if it is missing."""
  _atomic_write(Path(path), lambda file: np.savez_compressed(file, **arrays))


def atomic_write_figure(path: str | os.PathLike[str], figure: 'Figure') -> None:
  """Replaces the picture at `path` in one step, in the format of its suffix. Its folder is created if it is missing."""

  def write(file: BinaryIO) -> None:
    with warnings.catch_warnings():
      warnings.filterwarnings('ignore', r'Glyph \d+ ')  # text may be in any script; a letter without a glyph is drawn as a box
      figure.savefig(file, format=Path(path).suffix.removeprefix('.'))

  _atomic_write(Path(path), write)


def to_json(value: Any, indent: int | None = None) -> str:
  """Returns strict JSON.

  | value | becomes |
  |---|---|
  | NaN or an infinity | null |
  | a NumPy number or array | a plain number or list |
  | any other object | its `str` |
  """
  return json.dumps(_plain(value), indent=indent, allow_nan=False, ensure_ascii=False)


def _atomic_write(path: Path, write: Callable[[BinaryIO], Any]) -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  temporary = path.with_name(path.name + '.tmp')
  try:
    with writing(path), temporary.open('wb') as file:
      write(file)
      file.flush()
      os.fsync(file.fileno())
  except BaseException:
    temporary.unlink(missing_ok=True)  # on a full disk it would only take space
    raise
  os.replace(temporary, path)


def _plain(value: Any) -> Any:
  if isinstance(value, np.ndarray | np.generic):
    value = value.tolist()
  if isinstance(value, Mapping):
    return {str(key): _plain(item) for key, item in value.items()}
  if isinstance(value, list | tuple):
    return [_plain(item) for item in value]
  if isinstance(value, float):
    return value if math.isfinite(value) else None
  if value is None or isinstance(value, bool | int | str):
    return value
  return str(value)

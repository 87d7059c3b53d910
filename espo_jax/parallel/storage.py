"""Reads the files that commands wrote, and gives every error about a file its path and its reason.

Each library raises errors of its own, some of which have neither.
"""

import contextlib
import errno
import json
import os
import pathlib
import re
from collections.abc import Collection, Iterator
from typing import Any

import numpy as np

_LONGEST = 300  # characters of a message

# Some libraries report an error of the disk only in its text: Rust's, which write tokenizers and safetensors, TensorStore,
# which writes checkpoints, and those that write prepared data.
_SAID = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)
_NUMBER = re.compile(r"\(os error (\d+)\)|os_error_code='(\d+)'")


class DamagedFile(ValueError):
  """A file that an earlier command wrote is damaged. The message names the file, the reason and the fix."""


def read_json(path: str | os.PathLike[str], kind: type = dict) -> Any:
  """Reads a JSON file that a command of this package wrote.

  Args:
    path: The file.
    kind: The type of its value.

  Raises:
    DamagedFile: It holds no JSON, or a value of another type.
    OSError: It cannot be read.
  """
  fix = 'fix: remove it, and the command that wrote it writes it anew, or a copy of it'
  try:
    found = json.loads(pathlib.Path(path).read_bytes())
  except (ValueError, RecursionError) as error:
    raise DamagedFile(f'{path}: not JSON ({reason(error)}); {fix}') from error
  if not isinstance(found, kind):
    raise DamagedFile(f'{path}: not a {kind.__name__} in JSON but {type(found).__name__}; {fix}')
  return found


def read_arrays(path: str | os.PathLike[str], names: Collection[str] | None = None) -> dict[str, np.ndarray]:
  """Reads a NumPy archive. Nothing in it is unpickled.

  Args:
    path: The archive.
    names: The arrays to read, of which the archive may lack some; None for all.

  Raises:
    DamagedFile: It is no archive of numbers and truth values.
    OSError: It cannot be opened.
  """
  try:
    with np.load(path) as archive:
      found = {name: archive[name] for name in archive.files if names is None or name in names}
  except Exception as error:  # a damaged archive may raise anything, from EOFError to those of zlib and struct
    if isinstance(error, OSError) and error.filename is not None:  # a damaged archive's errors name no file
      raise
    raise DamagedFile(f'{path}: no NumPy archive ({type(error).__name__}: {reason(error)}); fix: a copy of it') from error
  if other := [name for name, array in found.items() if array.dtype.kind not in 'biuf']:
    raise DamagedFile(f'{path}: {other[0]!r} holds {found[other[0]].dtype}, and no numbers; fix: a copy of it')
  return found


def reason(error: BaseException) -> str:
  """Returns the message of a library's error on one line and shortened, because it may quote a whole file."""
  text = ' '.join(str(error).split())
  return text if len(text) <= _LONGEST else f'{text[:_LONGEST]}...'


@contextlib.contextmanager
def writing(path: str | os.PathLike[str]) -> Iterator[None]:
  """Gives errors of the code inside the path that it writes.

  Args:
    path: The path that an error gets if it names none.

  Raises:
    OSError: The disk failed. It replaces a library's error that says so only in its text or in the text of a cause.
  """
  try:
    yield
  except OSError as error:
    if error.filename is None and error.errno is not None:
      error.filename = os.fspath(path)
    raise
  except Exception as error:
    if number := _number(error):
      raise OSError(number, os.strerror(number), os.fspath(path)) from error
    raise


def causes(error: BaseException) -> list[BaseException]:
  """Returns an error and its chain of causes, the first cause last."""
  chain = [error]
  while (cause := _cause(chain[-1])) is not None and cause not in chain:
    chain.append(cause)
  return chain


def _cause(error: BaseException) -> BaseException | None:
  if error.__cause__ is not None or error.__suppress_context__:
    return error.__cause__
  return error.__context__


def _number(error: BaseException) -> int | None:
  """Returns the number of the operating system's error that was met; None if none was."""
  for cause in causes(error):
    if isinstance(cause, OSError) and cause.errno is not None:
      return cause.errno
    if match := _NUMBER.search(str(cause)):
      return int(match[1] or match[2])
    if said := [number for number in _SAID if os.strerror(number) in str(cause)]:
      return said[0]
  return None

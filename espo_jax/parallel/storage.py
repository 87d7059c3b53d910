"""Gives an error about a disk its file and its number, whichever library met it, so that a command can say what to do."""

import contextlib
import os
import re
from collections.abc import Iterator

# Rust's libraries, which write tokenizers and safetensors, and TensorStore, which writes checkpoints, have texts alone.
_NUMBER = re.compile(r"\(os error (\d+)\)|os_error_code='(\d+)'")


@contextlib.contextmanager
def writing(path: str | os.PathLike[str]) -> Iterator[None]:
  """Names what the code inside writes.

  Args:
    path: The file or folder that an error names which names none itself.

  Raises:
    OSError: The disk failed. It replaces an error of a library that tells so in its text, or in that of a cause.
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
  while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None and cause not in chain:
    chain.append(cause)
  return chain


def _number(error: BaseException) -> int | None:
  """Returns the number of the operating system's error that was met; None if none was."""
  for cause in causes(error):
    if isinstance(cause, OSError) and cause.errno is not None:
      return cause.errno
    if match := _NUMBER.search(str(cause)):
      return int(match[1] or match[2])
  return None

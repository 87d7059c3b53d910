"""Reads the records of a local file: JSON lines, a JSON array or Parquet, gzipped or not.

The kind of a file is recognised by its content and not by its name.
"""

import gzip
import io
import json
import re
import zlib
from collections.abc import Iterator
from pathlib import Path

from espo_jax.tasks.records import Record
from espo_jax.tasks.task import DataError

FORMATS = 'JSON lines, a JSON array or Parquet, gzipped or not'
_HEAD = 4096  # the number of first bytes by which the kind is recognised
_MARK = b'\xef\xbb\xbf'  # the byte order mark of UTF-8, which some editors write
_GZIP, _PARQUET = b'\x1f\x8b', b'PAR1'
_UNPACK = 'unpack it, and name the file that it holds'
_EXPORT = f'export it as {FORMATS}'
_UTF8 = 'save it as UTF-8'
# The first bytes of files of other kinds, the kind, and the fix.
_OTHERS = (
  (b'PK\x03\x04', 'a ZIP archive or a spreadsheet', _UNPACK),
  (b'PK\x05\x06', 'an empty ZIP archive', _UNPACK),
  (b'\x28\xb5\x2f\xfd', 'compressed by zstd', _UNPACK),
  (b'BZh', 'compressed by bzip2', _UNPACK),
  (b'\xfd7zXZ\x00', 'compressed by xz', _UNPACK),
  (b'\x04\x22\x4d\x18', 'compressed by lz4', _UNPACK),
  (b'7z\xbc\xaf\x27\x1c', 'a 7z archive', _UNPACK),
  (b'Rar!', 'a RAR archive', _UNPACK),
  (b'PARE', 'an encrypted Parquet file', 'decrypt it'),
  (b'ARROW1', 'an Arrow file', _EXPORT),
  (b'\xff\xff\xff\xff', 'an Arrow stream', _EXPORT),
  (b'Obj\x01', 'an Avro file', _EXPORT),
  (b'ORC', 'an ORC file', _EXPORT),
  (b'\x89HDF', 'an HDF5 file', _EXPORT),
  (b'SQLite format 3', 'an SQLite database', _EXPORT),
  (b'\x93NUMPY', 'a NumPy array', _EXPORT),
  (b'\x80', 'a pickle', _EXPORT),
  (b'%PDF', 'a PDF document', _EXPORT),
  (b'\xff\xfe', 'text in UTF-16 or UTF-32', _UTF8),
  (b'\xfe\xff', 'text in UTF-16', _UTF8),
  (b'\x00\x00\xfe\xff', 'text in UTF-32', _UTF8),
  (b'version https://git-lfs', 'a Git LFS pointer, which stands for the file', 'fetch the file with git lfs pull'),
)
_PAGE = re.compile(rb'\s*<(?:!doctype|html|\?xml)', re.IGNORECASE)
_COLUMN = rb'"?[^\W\d][\w. -]{0,40}"?'
_HEADER = re.compile(rb'%b(?:[,;\t]%b)+' % (_COLUMN, _COLUMN))


def file_problem(path: str) -> str | None:
  """Returns the kind of the file and the fix if `read_records` cannot read it; None if it may be readable.

  Only the head of the file is read, decompressed if the file is gzipped. A file that cannot be opened gives None, because
  `read_records` reports it.
  """
  try:
    with _opened(path) as file:
      head, packed = file.read(_HEAD), isinstance(file, gzip.GzipFile)
  except (OSError, EOFError, zlib.error):
    return None
  said = _kind(head, Path(path).suffix.lower())
  return f'{said[0]}{", gzipped" if packed else ""}; fix: {said[1]}' if said else None


def read_records(path: str, field: str) -> Iterator[tuple[int, bytes | Record]]:
  """Yields every record with its number, counted from 1.

  In a JSON-lines file the number is the line, elsewhere the position among the records. JSON is left undecoded, so that one
  malformed record does not affect the others.

  Args:
    path: a local file.
    field: the configuration field that named the file, for the messages.

  Raises:
    DataError: The file is of another kind, damaged or not readable. The message says which it is and what to do.
  """
  if problem := file_problem(path):
    raise DataError(f'{field} = {path!r}: {problem}')
  try:
    with _opened(path) as file:
      head = file.read(_HEAD)
      file.seek(0)
      start = head.removeprefix(_MARK).lstrip()
      if head.startswith(_PARQUET):
        yield from _parquet(path, field, file)
      elif start.startswith(b'['):
        yield from _array(path, field, file.read())
      elif re.match(rb'\{\s*\n', start) and _is_json(file.read()):
        raise DataError(
          f'{field} = {path!r}: one JSON object over several lines; fix: one object a line, or an array of objects'
        )
      else:
        file.seek(0)
        yield from _lines(file)
  except (EOFError, zlib.error, gzip.BadGzipFile) as error:
    raise DataError(f'{field} = {path!r}: a damaged gzip file ({error}); fix: fetch it anew') from error
  except OSError as error:
    raise DataError(f'{field} = {path!r}: {error.strerror}; fix: set {field} to a readable file of {FORMATS}') from error


def _opened(path: str) -> io.BufferedIOBase:
  with open(path, 'rb') as file:
    packed = file.read(2) == _GZIP
  return gzip.open(path) if packed else open(path, 'rb')


def _kind(head: bytes, suffix: str) -> tuple[str, str] | None:
  """Returns the kind of a file with this head and the fix, if its records cannot be read; None otherwise."""
  if not head:
    return 'an empty file', f'a file of {FORMATS}'
  for begin, kind, fix in _OTHERS:
    if head.startswith(begin):
      return kind, fix
  if head[257:262] == b'ustar':
    return 'a tar archive', _UNPACK
  if _PAGE.match(head.removeprefix(_MARK)):
    return 'a web page or another XML document', 'fetch the file itself, on the Hub by an address with /resolve/'
  if head.startswith(_PARQUET):
    return None
  if b'\x00' in head[:4]:
    return 'text in UTF-16 or UTF-32', _UTF8
  first = head.removeprefix(_MARK).lstrip().split(b'\n', 1)[0].strip()
  if not first.startswith((b'{', b'[')) and (suffix in ('.csv', '.tsv') or _HEADER.fullmatch(first)):
    return 'a table of comma- or tab-separated values', _EXPORT
  return None


def _lines(file: io.BufferedIOBase) -> Iterator[tuple[int, bytes]]:
  for number, line in enumerate(file, start=1):
    line = line.removeprefix(_MARK) if number == 1 else line
    if line.strip():
      yield number, line


def _array(path: str, field: str, content: bytes) -> Iterator[tuple[int, bytes]]:
  """Yields the elements of an array as they are written, or the lines if the file has more than one JSON value."""
  try:
    text = content.removeprefix(_MARK).decode()
  except UnicodeDecodeError as error:
    raise DataError(f'{field} = {path!r}: a JSON array that is not UTF-8 ({error}); fix: {_UTF8}') from error
  elements: list[bytes] = []
  try:
    end = _read_array(text, elements)
  except (ValueError, RecursionError) as error:
    where = f'behind element {len(elements)} ({error})'
    raise DataError(f'{field} = {path!r}: a JSON array that is damaged or cut off {where}; fix: fetch it anew') from error
  yield from enumerate(elements, start=1) if not text[end:].strip() else _lines(io.BytesIO(content))


def _read_array(text: str, elements: list[bytes]) -> int:
  """Appends the elements of the array with which a text begins to `elements`, and returns the position behind the array."""
  decoder, space = json.JSONDecoder(), re.compile(r'\s*')

  def skipped(position: int) -> int:
    match = space.match(text, position)
    return match.end() if match else position

  position = skipped(text.index('[') + 1)
  while text[position : position + 1] != ']':
    _, end = decoder.raw_decode(text, position)
    elements.append(text[position:end].encode())
    position = skipped(end)
    if text[position : position + 1] == ',':
      position = skipped(position + 1)
    elif text[position : position + 1] != ']':
      raise ValueError('neither a comma nor the end of the array')
  return position + 1


def _is_json(content: bytes) -> bool:
  try:
    json.loads(content.removeprefix(_MARK))
  except (ValueError, RecursionError):
    return False
  return True


def _parquet(path: str, field: str, file: io.BufferedIOBase) -> Iterator[tuple[int, Record]]:
  import pyarrow  # slow to import, and only needed here
  import pyarrow.parquet

  number = 0
  try:
    with pyarrow.parquet.ParquetFile(io.BytesIO(file.read()) if isinstance(file, gzip.GzipFile) else path) as table:
      for batch in table.iter_batches():
        for record in batch.to_pylist():
          number += 1
          yield number, record
  except (OSError, ValueError, OverflowError, pyarrow.ArrowException) as error:  # also a column that Python cannot hold
    raise DataError(f'{field} = {path!r}: not a Parquet file ({error}); fix: fetch it anew, or a JSON-lines file') from error

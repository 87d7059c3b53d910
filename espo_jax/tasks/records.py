"""Reads the fields of a record with checks. An error names the record's place and the field."""

import json
import math
import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from espo_jax.tasks.task import DataError

Record = Mapping[str, Any]
_INDEX = re.compile(r'-?[0-9]{1,9}')


def parse_line(place: str, line: bytes) -> Record:
  """Parses the JSON object on a line of a file.

  Raises:
    DataError: The line is not UTF-8, not JSON (NaN is not JSON), or not an object.
  """
  try:
    record = json.loads(line.decode(), parse_constant=_no_constant)
  except (ValueError, RecursionError) as error:
    raise DataError(f'{place}: not JSON ({error}); fix: one JSON object a line, in UTF-8') from error
  if not isinstance(record, dict):
    raise DataError(f'{place}: not an object but {type(record).__name__}; fix: an object such as {{"problem": "...", ...}}')
  return record


def value(place: str, record: Record, field: str) -> Any:
  """Returns the value at a dotted name: `reward_model.ground_truth`, or `prompt.0.content` with an item of a list.

  If the record has a key that equals the whole name, dots included, that key is used.

  Raises:
    DataError: The record has no such value.
  """
  if field in record:
    return record[field]
  found: Any = record
  for name in field.split('.'):
    if isinstance(found, list) and _INDEX.fullmatch(name) and -len(found) <= int(name) < len(found):
      found = found[int(name)]
    elif isinstance(found, Mapping) and name in found:
      found = found[name]
    else:
      raise DataError(f'{place}: field {field!r}: missing; fix: add it')
  return found


def text(place: str, record: Record, field: str) -> str:
  """Returns the text at a dotted name, without space around it.

  Raises:
    DataError: The value is missing, not a string, empty, or not valid Unicode.
  """
  found = value(place, record, field)
  if not isinstance(found, str):
    raise DataError(f'{place}: field {field!r}: {type(found).__name__} instead of text; fix: a JSON string')
  if not found.strip():
    raise DataError(f'{place}: field {field!r}: empty; fix: fill it in, or take the row out')
  try:
    found.encode()
  except UnicodeEncodeError as error:
    raise DataError(f'{place}: field {field!r}: not valid Unicode ({error.reason}); fix: remove the lone surrogate') from error
  return found.strip()


def number_or_text(place: str, record: Record, field: str) -> str:
  """Returns the answer at a dotted name as text.

  A whole number is written without a fraction, because `27.0` means the answer 27.

  Raises:
    DataError: The value is missing, empty, not finite, or neither a number nor text.
  """
  found = value(place, record, field)
  if isinstance(found, bool) or not isinstance(found, int | float | Decimal):
    return text(place, record, field)
  if not isinstance(found, int) and not math.isfinite(found):
    raise DataError(f'{place}: field {field!r}: {found} is not a finite number; fix: a number, or text')
  return f'{Decimal(str(found)):f}' if found % 1 else str(int(found))


def _no_constant(name: str) -> None:
  raise ValueError(f'{name} is not JSON')

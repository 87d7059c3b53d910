"""Finds missing, truncated, empty or zeroed files of a checkpoint without reading its arrays.

A checkpoint is whole if its JSON parses, the checksums of its index hold, each data file is as long as the index says, and no
value ends in zeros. Bytes that changed inside an array which still decompresses are not seen here, because Orbax writes no
checksum of them. `checkpoint.load` finds them by our own checksums.
"""

import json
import pathlib
import urllib.parse
from collections.abc import Iterator, Mapping
from typing import Any

import tensorstore as ts

_CHECKPOINT, _TREE = '_CHECKPOINT_METADATA', '_METADATA'
_OTHER_JSON = (
  'metrics/metrics',
  '*/_sharding',
  '*/array_metadatas/*',
)  # Orbax reads these files where they exist, and does not need them
_SHOWN = 3  # names that a message has
_TAIL = 12  # the last bytes of a stored value; they hold its last size and a checksum, and are never all zero


class _Damage(Exception):
  """A checkpoint is damaged. The message says how, in one line."""


def damage(folder: pathlib.Path) -> str:
  """Returns the reason why the checkpoint in a folder cannot be read, in one line; '' if no damage is found."""
  try:
    if str(step := _own_metadata(folder).get('step', folder.name)) != folder.name:
      raise _Damage(f'it was saved as step {step}')
    trees = sorted(folder.glob(f'*/{_TREE}'))
    if not trees:
      raise _Damage(f'no {_TREE} in it')
    for path in (*trees, *(path for pattern in _OTHER_JSON for path in sorted(folder.glob(pattern)))):
      _read(folder, path)
    for tree in trees:
      _check_values(folder, tree.parent)
  except _Damage as found:
    return str(found)
  except OSError as error:
    return f'{error.strerror}: {error.filename}'
  return ''


def is_done(folder: pathlib.Path) -> bool:
  """Returns whether the checkpoint says that its stage was complete."""
  return bool(_own_metadata(folder)['done'])


def foreign(folder: pathlib.Path, origin: Mapping[str, Any]) -> str:
  """Returns how the origin of a checkpoint differs from the given one, in one line; '' if no name has two values."""
  there = _own_metadata(folder).get('origin', {})
  differing = [name for name in origin if name in there and there[name] != origin[name]]
  told = ', '.join(f'{name} = {there[name]!r} there and {origin[name]!r} here' for name in differing[:_SHOWN])
  return f'it is of another run: {told}' if differing else ''


def saved_checksums(folder: pathlib.Path) -> dict[str, int]:
  """Returns the checksum of each array by its path, as they were saved; empty if the checkpoint was saved without any."""
  return _own_metadata(folder).get('checksums', {})


def _own_metadata(folder: pathlib.Path) -> dict[str, Any]:
  path = folder / _CHECKPOINT
  if not path.exists():
    raise _Damage(f'no {_CHECKPOINT} in it')
  written = _read(folder, path).get('custom_metadata')
  if not isinstance(written, dict) or 'done' not in written:
    raise _Damage(f'{_CHECKPOINT} does not say whether the stage is done')
  for name in ('origin', 'checksums'):
    if not isinstance(written.get(name, {}), dict):
      raise _Damage(f'{_CHECKPOINT}: {name} is no object')
  return written


def _read(folder: pathlib.Path, path: pathlib.Path) -> dict[str, Any]:
  raw = path.read_bytes()
  if not raw:
    raise _Damage(f'{path.relative_to(folder)} is empty')
  try:
    value = json.loads(raw)
  except (ValueError, RecursionError) as error:
    raise _Damage(f'{path.relative_to(folder)} is not JSON ({error})') from error
  if not isinstance(value, dict):
    raise _Damage(f'{path.relative_to(folder)} is not a JSON object')
  return value


def _check_values(folder: pathlib.Path, item: pathlib.Path) -> None:
  """Compares the index of an item's arrays with the files that it refers to."""
  base = ts.KvStore.open({'driver': 'file', 'path': f'{item.resolve()}/'}).result()
  try:
    manifest = ts.ocdbt.dump(base).result()
    places = list(_places(base, manifest['versions'][-1]['root']))
  except (ValueError, KeyError, IndexError, TypeError) as error:
    raise _Damage(f'the index of {item.name}/ cannot be read ({str(error).partition(" [")[0]})') from error
  for file, end in places:
    path = item / file
    size = path.stat().st_size
    if size < end:
      raise _Damage(f'{path.relative_to(folder)} has {size} bytes of at least {end}')
    with path.open('rb') as opened:
      opened.seek(max(0, end - _TAIL))
      if not any(opened.read(_TAIL)):
        raise _Damage(f'{path.relative_to(folder)} holds zeros before its byte {end}')


def _places(base: ts.KvStore, entry: dict[str, Any]) -> Iterator[tuple[str, int]]:
  """Yields the file that holds each value under an index entry, and the byte at which the value ends."""
  if 'indirect_value' in entry:
    _, folder, place = entry['indirect_value'].split(':', 2)
    file, offset, length = place.rsplit(':', 2)
    yield urllib.parse.unquote(folder) + urllib.parse.unquote(file), int(offset) + int(length)
  if 'location' in entry:
    for child in ts.ocdbt.dump(base, entry['location']).result()['entries']:
      yield from _places(base, child)

"""Writes and reads the answers of an evaluation as one JSON object per line. An interrupted evaluation continues the file."""

import fcntl
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from espo_jax.monitor.files import atomic_write_text, to_json
from espo_jax.parallel.storage import writing

SAMPLES, SETTINGS = 'samples.jsonl', 'settings.json'
_REPLACED = ('config.json', 'summary.json')  # written at the end of an evaluation; runs and models have files of these names


class OutputError(ValueError):
  """A folder that an evaluation cannot write to. The message says why and what to do."""


class SampleWriter:
  """Appends answers to `<directory>/samples.jsonl`, batch by batch.

  A batch is handed to the operating system before `write` returns. When the file is opened again, the lines of an unfinished
  batch are cut off. A batch is always sampled as a whole, so that its numbers are the same to the last bit.
  """

  def __init__(self, directory: str | os.PathLike[str], settings: Mapping[str, Any], *, batch: int, total: int):
    """Opens the file where the evaluation continues.

    Args:
      directory: the evaluation's folder; created if missing.
      settings: all settings that the answers depend on, kept in `settings.json`. A folder with other settings is refused.
      batch: the number of lines per batch. The last batch may have fewer.
      total: the number of lines of the whole evaluation.

    Raises:
      OutputError: The folder holds something else, or another process is writing to it.
    """
    self._path = Path(directory) / SAMPLES
    _claim(Path(directory), settings)
    self._file = self._path.open('ab')
    try:
      fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
      raise OutputError(
        f'--output={directory}: another process is writing to it; fix: wait for it, or another folder'
      ) from error
    ends = [0]
    with self._path.open('rb') as file:
      for line in file:
        if not line.endswith(b'\n'):
          break
        ends.append(ends[-1] + len(line))
    whole = len(ends) - 1
    self.lines = whole if whole == total else whole - whole % batch  # complete lines that are kept
    self._file.truncate(ends[self.lines])

  def write(self, answers: Iterable[Mapping[str, Any]]) -> None:
    """Appends a batch."""
    lines = [to_json(answer) + '\n' for answer in answers]
    with writing(self._path):
      self._file.write(''.join(lines).encode())
      self._file.flush()
    self.lines += len(lines)

  def close(self) -> None:
    """Closes the file. Calling it again does nothing."""
    with writing(self._path):
      self._file.close()

  def __enter__(self) -> 'SampleWriter':
    return self

  def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
    self.close()


def read_samples(directory: str | os.PathLike[str]) -> Iterator[dict[str, Any]]:
  """Yields the answers in a folder one at a time, because together they may be larger than the memory.

  Raises:
    OutputError: A line is damaged.
  """
  path = Path(directory) / SAMPLES
  with path.open('rb') as file:
    for number, line in enumerate(file, start=1):
      if not line.endswith(b'\n'):  # the evaluation is still writing it, or was killed
        return
      try:
        yield json.loads(line)
      except (ValueError, RecursionError) as error:
        raise OutputError(f'{path}:{number}: not JSON ({error}); fix: remove the folder, or another --output') from error


def _claim(directory: Path, settings: Mapping[str, Any]) -> None:
  """Writes the settings of an evaluation to its folder, or checks that the folder belongs to this evaluation."""
  path = directory / SETTINGS
  if not path.exists():
    if (directory / SAMPLES).exists():
      raise OutputError(f'--output={directory}: holds a {SAMPLES} without its {SETTINGS}; fix: another folder')
    for name in _REPLACED:
      if (directory / name).exists():
        raise OutputError(
          f'--output={directory}: holds the {name} of a run or a model, which would be lost; fix: another folder'
        )
    atomic_write_text(path, to_json(settings, indent=2) + '\n')
    return
  try:
    before = json.loads(path.read_text())
  except (ValueError, RecursionError) as error:
    raise OutputError(f'{path}: not JSON ({error}); fix: another --output') from error
  now = json.loads(to_json(settings))
  if changed := [name for name in now | before if now.get(name) != before.get(name)]:
    was = ', '.join(f'{name} = {now.get(name)!r} was {before.get(name)!r}' for name in changed)
    raise OutputError(f'{path}: {was}; fix: another --output, or the command it was begun with')

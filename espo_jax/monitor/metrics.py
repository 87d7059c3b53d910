"""Writes and reads metrics as one JSON object per line. A run that is killed and resumed continues the file without a gap."""

import contextlib
import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from jaxtyping import Float

from espo_jax.monitor.files import atomic_write_text, to_json
from espo_jax.monitor.tensorboard import EventFile
from espo_jax.parallel.storage import DamagedFile, reason, writing

_FILE = 'metrics.jsonl'


class MetricWriter:
  """Appends metrics to `<directory>/metrics.jsonl` and mirrors them to TensorBoard in `<directory>/tensorboard`.

  Each line is handed to the operating system before `write` returns, so a killed process loses no line. Where the disk is full,
  `write` raises an OSError that names the file.
  """

  def __init__(self, directory: str | os.PathLike[str], resume_step: int):
    """Opens the file where the run continues.

    Args:
      directory: the run's folder; created if missing.
      resume_step: the last step whose state was restored. Later lines are dropped, because they will be written again. A new
        run that counts from 1 passes 0. A new run that also writes step 0 passes -1.
    """
    directory = Path(directory)
    path = directory / _FILE
    kept = [line for row, line in _parse(path) if row['step'] <= resume_step] if path.exists() else []
    atomic_write_text(path, ''.join(line + '\n' for line in kept))
    self._last_step = resume_step
    self._path, self._file = path, path.open('a', encoding='utf-8', newline='\n')
    self._tensorboard = EventFile(directory / 'tensorboard', purge_step=max(resume_step + 1, 0))

  def write(self, step: int, metrics: Mapping[str, Any]) -> None:
    """Appends one line. Non-finite numbers become null, and TensorBoard does not get them.

    The argument `step` replaces a `step` among the metrics.

    Raises:
      ValueError: `step` is not greater than the step before it.
    """
    step = int(step)
    if step <= self._last_step:
      raise ValueError(f'steps must increase: got {step} after {self._last_step}')
    scalars = {name: float(value) for name, value in metrics.items() if name != 'step'}
    with writing(self._path):
      self._file.write(to_json({'step': step, **scalars}) + '\n')
      self._file.flush()
    self._last_step = step
    self._tensorboard.add_scalars(step, {name: value for name, value in scalars.items() if math.isfinite(value)})

  def close(self) -> None:
    """Closes both outputs. Calling it again does nothing."""
    try:
      with writing(self._path):
        self._file.close()
    finally:
      self._tensorboard.close()

  def __enter__(self) -> 'MetricWriter':
    return self

  def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
    self.close()


def write_texts(directory: str | os.PathLike[str], step: int, texts: Sequence[str]) -> None:
  """Adds texts to TensorBoard in `<directory>/tensorboard`. They are shown as they are, not as Markdown.

  Args:
    directory: the run's folder.
    step: the step that they belong to.
    texts: the texts.
  """
  shown = {f'rollouts/{i:03d}': ''.join(f'    {line}\n' for line in text.split('\n')) for i, text in enumerate(texts)}
  with contextlib.closing(EventFile(Path(directory) / 'tensorboard')) as file:
    file.add_texts(step, shown)


def write_table(
  directory: str | os.PathLike[str], step: int, name: str, heads: Sequence[str], rows: Sequence[Sequence[Any]]
) -> None:
  """Adds a table to the texts of TensorBoard in `<directory>/tensorboard`. Its cells are shown as they are, on one line each.

  Args:
    directory: the run's folder.
    step: the step that the table belongs to.
    name: the title.
    heads: the titles of the columns.
    rows: the cells of each row.
  """
  lines = [heads, ['---'] * len(heads), *rows]
  text = ''.join(f'| {" | ".join(map(_cell, line))} |\n' for line in lines)
  with contextlib.closing(EventFile(Path(directory) / 'tensorboard')) as file:
    file.add_texts(step, {name: text})


def _cell(value: Any) -> str:
  """Returns a cell of a Markdown table. Each character that Markdown or HTML could read is written as a number."""
  return re.sub(r'[^\w .,:;%+-]', lambda found: ' ' if found[0].isspace() else f'&#{ord(found[0])};', str(value))


def read_metrics(directory: str | os.PathLike[str]) -> list[dict[str, Any]]:
  """Reads the lines of `<directory>/metrics.jsonl`, with null as NaN. The run may still be writing the file."""
  rows = [row for row, _ in _parse(Path(directory) / _FILE)]
  return [{name: float('nan') if value is None else value for name, value in row.items()} for row in rows]


def column(rows: Sequence[Mapping[str, Any]], name: str) -> Float[np.ndarray, ' rows']:
  """Returns one metric over all lines, with NaN for a line that lacks it."""
  return np.array([row.get(name, np.nan) for row in rows], dtype=np.float64)


def policy_accuracy(metrics: Mapping[str, Any]) -> float:
  """Returns the training accuracy by which updates, and runs under different stop rules, are compared.

  This is `accuracy_unstopped`, which estimates the accuracy without stops. Where rows were stopped and none of them decoded on,
  it is unknown, and `accuracy` takes its place. That counts stopped rows as wrong and leaves out dropped ones.
  """
  unstopped = float(metrics.get('accuracy_unstopped', np.nan))
  return unstopped if np.isfinite(unstopped) else float(metrics.get('accuracy', np.nan))


def _parse(path: Path) -> list[tuple[dict[str, Any], str]]:
  """Returns the object and the text of each line, without an incomplete last line of a killed process."""
  lines = path.read_bytes().split(b'\n')
  parsed = []
  for number, line in enumerate(lines, start=1):
    if not line:
      continue
    try:
      row = json.loads(line)
      if not isinstance(row, dict) or not isinstance(row.get('step'), int):
        raise ValueError('no object with a step')
      if other := [name for name, value in row.items() if not isinstance(value, int | float | None)]:
        raise ValueError(f'{other[0]!r} is no number')
      parsed.append((row, line.decode()))
    except (ValueError, RecursionError) as error:
      if number == len(lines):
        break
      raise DamagedFile(
        f'{path}, line {number}: not a line of metrics ({reason(error)}); fix: remove the line, or a copy of the file'
      ) from error
  return parsed

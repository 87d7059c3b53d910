"""Reads the answers of a finished evaluation as samples for decoders."""

import pathlib
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool

from espo_jax import decoders, monitor
from espo_jax.decoders import Samples
from espo_jax.evaluate.policies import RequestError
from espo_jax.evaluate.recording import ROWS
from espo_jax.monitor.samples import SAMPLES, SETTINGS, OutputError
from espo_jax.parallel.storage import read_arrays, read_json

_KINDS = {'answer': str, 'stop_reason': str, 'length': int, 'correct': bool}  # what is read of an answer
_LONGEST = 2**31  # a length is below it


class Graded(NamedTuple):
  """The answers of an evaluation with their grades.

  Attributes:
    settings: The settings that the answers depend on.
    problems: The samples of each problem.
    correct: Whether each sample of each problem is right.
  """

  settings: dict[str, Any]
  problems: list[Samples]
  correct: list[Bool[np.ndarray, 'G']]


def read_graded(folder: pathlib.Path, needed: Iterable[str]) -> Graded:
  """Reads the answers of a finished evaluation. What was not recorded is None in the samples.

  Args:
    folder: The output folder of the evaluation.
    needed: The fields of `Samples` to read beside those that every evaluation has.

  Raises:
    RequestError: The folder holds no evaluation, one that is not finished, or one whose answers took probes.
    OutputError: A file of the answers is damaged.
    DamagedFile: The settings or the recording cannot be read.
  """
  for name in (SETTINGS, SAMPLES):
    if not (folder / name).is_file():
      raise RequestError(f'--from={folder}: holds no {name}; fix: the output folder of an evaluation')
  settings = read_json(folder / SETTINGS)
  for name in ('samples', 'problems'):
    if type(settings.get(name)) is not int or settings[name] < 1:
      raise OutputError(f'{folder / SETTINGS}: {name} = {settings.get(name)!r}: no number of an evaluation; fix: a copy of it')
  answers: list[str] = []
  columns: dict[str, list[Any]] = {'ended': [], 'lengths': [], 'correct': []}
  spent: list[int] = []
  for number, row in enumerate(monitor.read_samples(folder), start=1):
    for name, kind in _KINDS.items():
      if not isinstance(row, dict) or name not in row:
        raise OutputError(f'{folder / SAMPLES}:{number}: has no {name!r} of an answer; fix: a copy of the file')
      if type(row[name]) is not kind or (name == 'length' and not 0 < row[name] < _LONGEST):
        raise OutputError(f'{folder / SAMPLES}:{number}: {name} = {row[name]!r}: not of an answer; fix: a copy of the file')
    if row.get('probed'):
      raise RequestError(f'--from={folder}: its answers took probes, which no decoder counts; fix: answers without --stop')
    if 'drawn_by' in settings:
      if type(row.get('spent')) is not int or not 0 <= row['spent'] < _LONGEST:
        raise OutputError(
          f'{folder / SAMPLES}:{number}: spent = {row.get("spent")!r}: not of an answer; fix: a copy of the file'
        )
      spent.append(row['spent'])
    answers.append(row['answer'])
    columns['ended'].append(row['stop_reason'] in ('eos', 'settled'))
    columns['lengths'].append(row['length'])
    columns['correct'].append(row['correct'])
  samples, total = settings['samples'], settings['samples'] * settings['problems']
  if len(answers) != total:
    raise RequestError(
      f'--from={folder}: {len(answers)} of {total} answers; fix: the command that it was begun with finishes it'
    )
  ended, correct = (np.array(columns[name], bool) for name in ('ended', 'correct'))
  lengths = np.array(columns['lengths'], np.int64)
  reads = set(needed) - {*decoders.ALWAYS}
  if reads and (environment := settings.get('environment')):
    told = f'the recording has the tokens of the environment {environment!r} among those of the policy'
    raise RequestError(f'--from={folder}: a decoder reads {min(reads)!r}, and {told}; fix: a decoder that reads answers alone')
  recorded: dict[str, Any] = _recorded(folder / ROWS, lengths, reads)
  groups = [slice(i, i + samples) for i in range(0, total, samples)]
  if spent:
    recorded['spent'] = np.array(spent, np.int64)
  problems = [
    Samples(answers[its], ended[its], lengths[its], **{name: rows[its] for name, rows in recorded.items()}) for its in groups
  ]
  return Graded(settings, problems, [correct[its] for its in groups])


def _recorded(path: pathlib.Path, lengths: np.ndarray, needed: set[str]) -> dict[str, list[np.ndarray]]:
  """Returns the recorded rows, each cut to its own length, of those fields that are in the recording."""
  if not needed or not path.is_file():
    return {}
  found = read_arrays(path, {*needed, 'length'})
  if 'length' not in found or not np.array_equal(found['length'], lengths):
    raise OutputError(f'{path}: its rows are not the answers of {SAMPLES}; fix: a copy of it, or another evaluation')
  for name in needed & found.keys():
    axes = 3 if name == 'projections' else 2
    if found[name].shape[:1] != lengths.shape or found[name].ndim != axes or found[name].shape[1] < lengths.max():
      raise OutputError(f'{path}: {name!r} has the shape {found[name].shape}, too small for its answers; fix: a copy of it')
  return {name: [row[:n] for row, n in zip(found[name], lengths, strict=True)] for name in needed & found.keys()}

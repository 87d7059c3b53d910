"""Writes and reads rows as a tensorflow-datasets data set over ArrayRecord files, without TensorFlow."""

import contextlib
import io
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from espo_jax.parallel.storage import writing
from espo_jax.tasks.benchmarks import Row
from espo_jax.tasks.task import DataError

_VERSION = '1.0.0'  # the version of the rows' fields


class RowsBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
  """Writes the checked rows of one split of a benchmark, in their order."""

  VERSION = tfds.core.Version(_VERSION)
  code_path = None  # only for checksums of downloads; finding it needs a package that tfds does not install
  pkg_dir_path = None

  def __init__(self, benchmark: str, split: str, rows: Sequence[Row], data_dir: str):
    self.name = benchmark
    self._split, self._rows = split, rows
    super().__init__(data_dir=data_dir, file_format='array_record')

  def _info(self) -> tfds.core.DatasetInfo:
    features = tfds.features.FeaturesDict({field: tfds.features.Text() for field in Row._fields})
    return tfds.core.DatasetInfo(builder=self, features=features, disable_shuffling=True)

  def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
    return {self._split: self._generate_examples()}

  def _generate_examples(self) -> Iterator[tuple[int, dict[str, str]]]:
    for number, row in enumerate(self._rows):
      yield number, {**row._asdict(), 'solution': row.solution or ''}


def write_prepared(benchmark: str, split: str, rows: Sequence[Row], output: str) -> None:
  """Writes rows to the directory `output`. If writing fails, the directory does not appear.

  Raises:
    DataError: The directory exists and is not empty, or cannot be written.
  """
  target = Path(output).absolute()
  try:
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
      raise DataError(f'--output={output}: exists and is not an empty directory; fix: another one, or remove it first')
    target.parent.mkdir(parents=True, exist_ok=True)
    with writing(output), tempfile.TemporaryDirectory(dir=target.parent, prefix=f'.{target.name}.') as folder:
      builder = RowsBuilder(benchmark, split, rows, folder)
      with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):  # no banners and bars
        builder.download_and_prepare()
      os.replace(builder.data_dir, target)
  except OSError as error:
    raise DataError(f'--output={output}: {error.strerror}; fix: a directory that can be written') from error


def read_prepared(path: str, benchmark: str, field: str) -> list[Row]:
  """Reads the rows that `write_prepared` wrote to a directory.

  Args:
    path: the directory.
    benchmark: the benchmark whose rows it must hold.
    field: the configuration field that named the directory, for the messages.

  Raises:
    DataError: The directory is damaged, or holds something else. The message says which and what to do.
  """
  again = 'fix: write it anew with python -m espo_jax.prepare_data'
  try:
    builder = tfds.builder_from_directory(path)
    splits, features = list(builder.info.splits), list(builder.info.features or ())
  except Exception as error:  # tfds reads JSON, protocol buffers and paths, and lets all their errors through
    raise DataError(f'{field} = {path!r}: not a readable data set ({type(error).__name__}: {error}); {again}') from error
  if sorted(features) != sorted(Row._fields) or len(splits) != 1:
    raise DataError(f'{field} = {path!r}: fields {features}, splits {splits}: not rows of a benchmark; {again}')
  if builder.name != benchmark:
    raise DataError(
      f'{field} = {path!r}: holds the benchmark {builder.name!r}, not {benchmark!r}; '
      f'fix: {field.replace("path", "benchmark")} = {builder.name!r}, or another directory'
    )
  try:
    source = builder.as_data_source(split=splits[0])
    return [_row(source[i]) for i in range(len(source))]
  except Exception as error:  # as above; array_record raises whatever its reader does
    raise DataError(f'{field} = {path!r}: damaged ({type(error).__name__}: {error}); {again}') from error


def _row(example: Mapping[str, bytes]) -> Row:
  place, problem, solution, answer = (example[name].decode() for name in Row._fields)
  return Row(place, problem, solution or None, answer)

"""Reads rows from a local file, from a directory that `espo_jax.prepare_data` wrote, or from the Hugging Face Hub."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from espo_jax.names import data_file
from espo_jax.tasks.benchmarks import Benchmark, Row
from espo_jax.tasks.files import FORMATS, file_problem, read_records
from espo_jax.tasks.reasoning import TAGS
from espo_jax.tasks.records import Record, parse_line
from espo_jax.tasks.task import DataError

ON_ERROR = ('raise', 'skip')
INFO_FILE = 'dataset_info.json'  # every directory of a tensorflow-datasets data set has this file
_OF_DATASETS = ('state.json', 'dataset_dict.json')  # what `save_to_disk` of the package datasets writes


class Skipped(NamedTuple):
  """A row that was left out, and why."""

  place: str
  reason: str


class Rows(NamedTuple):
  """The rows of a source, and what was left out.

  Attributes:
    rows: the rows in the order of the source.
    skipped: the malformed rows, if `on_error` is 'skip'.
    repeats: the number of rows left out as repeats, in a benchmark whose file holds each problem many times.
  """

  rows: list[Row]
  skipped: list[Skipped]
  repeats: int


def path_problem(benchmark: Benchmark, path: str, split: str) -> str | None:
  """Returns what is wrong with a path, as `VALUE: PROBLEM; fix: ...`, without reading a row; None if nothing is."""
  if Path(path).is_file():
    return f'{path!r}: {problem}' if (problem := file_problem(path)) else None
  if any((Path(path) / name).is_file() for name in _OF_DATASETS):
    return f'{path!r}: a directory of the package datasets; fix: a file that its to_json or to_parquet writes'
  if (Path(path) / INFO_FILE).is_file() or data_file(path) or (path == benchmark.hub and split in benchmark.files):
    return None
  if not benchmark.hub:
    kind = 'a directory' if Path(path).is_dir() else 'no such file'
    return f'{path!r}: {kind}; fix: a file of {FORMATS}, or hf://datasets/OWNER/NAME/FILE for one on the Hugging Face Hub'
  if path == benchmark.hub:
    return f'{path!r}: holds no {split} split but {", ".join(benchmark.files)}; fix: another data set, or a file of your own'
  if Path(path).is_dir():
    held = sorted(str(file) for file in Path(path).iterdir() if file.is_file())
    file = f'the file {held[0]}, say' if held else 'a JSON-lines file'
    return f'{path!r}: a directory without {INFO_FILE}; fix: one that python -m espo_jax.prepare_data wrote, or {file}'
  return (
    f'{path!r}: no such file or directory; fix: a JSON-lines file, a directory that python -m espo_jax.prepare_data wrote, '
    f'or {benchmark.hub} to fetch {benchmark.name} from the Hugging Face Hub'
  )


def read_rows(
  benchmark: Benchmark, path: str, split: str, field: str, on_error: str = 'raise', forbidden: Sequence[str] = ()
) -> Rows:
  """Reads and checks all rows of a source.

  Args:
    benchmark: the benchmark that the records belong to.
    path: a file, a prepared directory, the benchmark's name on the Hub, or an address `hf://datasets/OWNER/NAME/FILE`.
    split: 'train' or 'test', which selects the files on the Hub. A file or a directory holds one split, so it is ignored there.
    field: the configuration field that named the path, for the messages.
    on_error: what to do with a malformed row: 'raise', or 'skip' and list it.
    forbidden: the texts that no problem or solution may hold, because the tokenizer would read them as special tokens. Tags of
      reasoning are allowed in a solution.

  Raises:
    DataError: The source cannot be read or holds no rows, or a row is malformed. The message says which and what to do.
  """
  if problem := path_problem(benchmark, path, split):
    raise DataError(f'{field} = {problem}')
  rows: list[Row] = []
  skipped: list[Skipped] = []
  seen: set[tuple[str, str]] = set()
  repeats = 0
  for place, raw in _records(benchmark, path, split, field):
    try:
      row = raw if isinstance(raw, Row) else benchmark.parse(place, parse_line(place, raw) if isinstance(raw, bytes) else raw)
      _check_special(row, forbidden)
    except DataError as error:
      if on_error == 'raise':
        skip = '--on_error=skip' if field.startswith('--') else '--config.data.on_error=skip'
        raise DataError(f'{error}; or go on without the row: {skip}') from error
      skipped.append(Skipped(place, str(error).removeprefix(f'{place}: ')))
      continue
    if benchmark.repeats:
      key = row.problem, row.answer
      if key in seen:
        repeats += 1
        continue
      seen.add(key)
    rows.append(row)
  if not rows:
    said = f'all {len(skipped)} rows are malformed, such as {skipped[0].place}: {skipped[0].reason}' if skipped else 'no rows'
    raise DataError(f'{field} = {path!r}: {said}; fix: set {field} to a source with rows of the benchmark {benchmark.name!r}')
  return Rows(rows, skipped, repeats)


def _check_special(row: Row, forbidden: Sequence[str]) -> None:
  for name, content, text in (('problem', row.problem, frozenset()), ('solution', row.solution or '', TAGS)):
    for token in forbidden:
      if token in content and token not in text:
        raise DataError(
          f'{row.place}: the {name} holds {token!r}, a special token of the tokenizer; fix: take it out of the text'
        )


def _records(benchmark: Benchmark, path: str, split: str, field: str) -> Iterator[tuple[str, bytes | Record | Row]]:
  """Yields every record with its place. A line is left undecoded, so that one malformed line does not affect the others."""
  if Path(path).is_dir():
    from espo_jax.tasks.prepared import read_prepared  # the import takes a second, and is only needed here

    yield from ((row.place, row) for row in read_prepared(path, benchmark.name, field))
  elif Path(path).is_file():
    yield from _file(path, path, field)
  elif named := data_file(path):
    fix = f'hf download {named[0]} {named[1]} --repo-type=dataset --local-dir=DIR where there is a network, and the file in DIR'
    yield from _file(_fetch(*named, f'{field} = {path!r}', fix), path, field)
  else:
    fix = (
      f'where there is a network, run python -m espo_jax.prepare_data --benchmark={benchmark.name} --data={benchmark.hub} '
      f'--split=SPLIT --output=DIR, and set {field} to that directory'
    )
    for name in benchmark.files[split]:
      yield from _file(_fetch(benchmark.hub, name, f'{field} = {benchmark.hub!r}', fix), f'{path}/{name}', field)


def _file(path: str, shown: str, field: str) -> Iterator[tuple[str, bytes | Record]]:
  yield from ((f'{shown}:{number}', raw) for number, raw in read_records(path, field))


def _fetch(repository: str, name: str, said: str, fix: str) -> str:
  """Returns the path of the local copy of a file on the Hub, which is downloaded only once."""
  import huggingface_hub  # slow to import, and only needed here

  try:
    return huggingface_hub.hf_hub_download(repository, name, repo_type='dataset')
  except Exception as error:  # no network, no such file, no permission, or whatever the HTTP client raises in between
    raise DataError(
      f'{said}: cannot fetch {name} from the Hugging Face Hub ({type(error).__name__}: {error}); fix: {fix}'
    ) from error

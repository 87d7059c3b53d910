"""Data files of every kind: read whatever their names are, or refused by what they are."""

import bz2
import gzip
import importlib.util
import io
import json
import lzma
import pathlib
import pickle
import sqlite3
import tarfile
import zipfile

import numpy as np
import pyarrow
import pyarrow.feather
import pyarrow.ipc
import pyarrow.orc
import pyarrow.parquet
import pytest
from benchmark_data import gsm8k

from espo_jax import prepare_data
from espo_jax.tasks import BENCHMARKS, DataError
from espo_jax.tasks.sources import path_problem, read_rows

pytestmark = pytest.mark.quick

ROOT = pathlib.Path(__file__).parents[1]
ODD = gsm8k(4) | {'question': 'A line\u2028in a line, a\x85next line, é and \U0001f600?'}
RECORDS = [*(gsm8k(i) for i in range(3)), ODD, gsm8k(5)]
MARK = b'\xef\xbb\xbf'


def lines(records=RECORDS, end: str = '\n') -> bytes:
  return ''.join(json.dumps(record, ensure_ascii=False) + end for record in records).encode()


def array(records=RECORDS, **style) -> bytes:
  return json.dumps(records, ensure_ascii=False, **style).encode()


def parquet(records=RECORDS) -> bytes:
  buffer = io.BytesIO()
  pyarrow.parquet.write_table(pyarrow.Table.from_pylist(records), buffer, row_group_size=2)
  return buffer.getvalue()


def no_text() -> bytes:
  """A Parquet file with a column of strings that are no UTF-8."""
  offsets = pyarrow.array([0, 1], pyarrow.int32()).buffers()[1]
  column = pyarrow.Array.from_buffers(pyarrow.string(), 1, [None, offsets, pyarrow.py_buffer(b'\xff')])
  buffer = io.BytesIO()
  pyarrow.parquet.write_table(pyarrow.table({'question': column}), buffer)
  return buffer.getvalue()


def saved(folder: pathlib.Path, name: str, content: bytes) -> str:
  (folder / name).write_bytes(content)
  return str(folder / name)


def read(path: str, **options):
  return read_rows(BENCHMARKS['gsm8k'], path, 'train', 'data.path', **options)


def bare(found) -> list:
  return [row._replace(place='') for row in found.rows]


@pytest.fixture(scope='module')
def tiny_model():
  """The script that makes a model to try things with, as a module."""
  spec = importlib.util.spec_from_file_location('make_tiny_model', ROOT / 'scripts' / 'make_tiny_model.py')
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


# ---------------------------------------------------------------------------------------------------------- what is read

READ = [
  ('rows.jsonl', lines()),
  ('rows.json', lines()),
  ('rows', lines()),
  ('marked.jsonl', MARK + lines()),
  ('windows.jsonl', lines(end='\r\n')),
  ('blank.jsonl', b'\n  \n' + lines(end='\n\n')),
  ('rows.parquet', parquet()),
  ('rows.PARQUET', parquet()),
  ('rows.pq', parquet()),
  ('rows.data', parquet()),
  ('rows.jsonl', parquet()),
  ('rows.jsonl.gz', gzip.compress(lines())),
  ('rows.JSONL.GZ', gzip.compress(MARK + lines())),
  ('two.jsonl.gz', gzip.compress(lines(RECORDS[:2])) + gzip.compress(lines(RECORDS[2:]))),
  ('rows.jsonl', gzip.compress(lines())),
  ('rows.parquet.gz', gzip.compress(parquet())),
  ('rows.json.gz', gzip.compress(array())),
  ('rows.json', array()),
  ('rows.jsonl', array()),
  ('pretty.json', array(indent=2)),
  ('marked.json', MARK + array(indent='\t')),
  ('spaces.json', b' \n\n' + array(separators=(' ,\r\n', ' : ')) + b' \r\n\n'),
  ('ascii.json', json.dumps(RECORDS).encode()),
]


@pytest.mark.parametrize(('name', 'content'), READ, ids=[f'{i}-{name}' for i, (name, _) in enumerate(READ)])
def test_records_are_read_whatever_the_file_is_called(tmp_path, tiny_model, name, content):
  expected = [BENCHMARKS['gsm8k'].parse('', record) for record in RECORDS]
  path = saved(tmp_path, name, content)
  assert path_problem(BENCHMARKS['gsm8k'], path, 'train') is None
  assert bare(read(path)) == expected
  assert all(row.place.startswith(f'{path}:') for row in read(path).rows)
  assert list(tiny_model.texts(path)) == [value for record in RECORDS for value in record.values()]


def test_every_string_of_a_record_is_text_for_a_tokenizer(tmp_path, tiny_model):
  record = {'a': [{'b': 'one', 'c': ['two', 3]}], 'd': {'e': 'three'}, 'f': None}
  for name, content in (
    ('rows.jsonl', lines([record])),
    ('rows.pq', parquet([{'a': [{'b': 'one'}, {'b': 'two'}], 'd': 'three'}])),
  ):
    assert list(tiny_model.texts(saved(tmp_path, name, content))) == ['one', 'two', 'three']


BAD_ELEMENT = [
  ({'question': 'Why?'}, "field 'answer': missing"),
  (['question', 'answer'], 'not an object but list'),
  (None, 'not an object but NoneType'),
  (float('nan'), r'not JSON \(NaN is not JSON\)'),
  ({'question': 'Why?', 'answer': float('inf')}, r'not JSON \(Infinity is not JSON\)'),
]


@pytest.mark.parametrize(('element', 'said'), BAD_ELEMENT, ids=range(len(BAD_ELEMENT)))
@pytest.mark.parametrize('pack', [bytes, gzip.compress])
def test_a_malformed_element_of_an_array_fails_alone(tmp_path, element, said, pack):
  path = saved(tmp_path, 'rows.json', pack(array([gsm8k(1), element, gsm8k(2)], indent=1)))
  with pytest.raises(DataError, match=rf'^{path}:2: {said}'):
    read(path)
  found = read(path, on_error='skip')
  assert ([row.place for row in found.rows], [skipped.place for skipped in found.skipped]) == (
    [f'{path}:1', f'{path}:3'],
    [f'{path}:2'],
  )


def test_lines_that_begin_with_a_list_are_lines(tmp_path):
  path = saved(tmp_path, 'rows.jsonl', b'["question", "answer"]\n' + lines())
  with pytest.raises(DataError, match=rf'^{path}:1: not an object but list'):
    read(path)
  assert bare(read(path, on_error='skip')) == bare(read(saved(tmp_path, 'good.jsonl', lines())))


# ------------------------------------------------------------------------------------------------------- what is refused


def zipped() -> bytes:
  buffer = io.BytesIO()
  with zipfile.ZipFile(buffer, 'w') as archive:
    archive.writestr('rows.jsonl', lines())
  return buffer.getvalue()


def tarred() -> bytes:
  buffer = io.BytesIO()
  with tarfile.open(fileobj=buffer, mode='w') as archive:
    info = tarfile.TarInfo('rows.jsonl')
    info.size = len(lines())
    archive.addfile(info, io.BytesIO(lines()))
  return buffer.getvalue()


def arrow(write) -> bytes:
  sink = pyarrow.BufferOutputStream()
  write(pyarrow.Table.from_pylist(RECORDS), sink)
  return sink.getvalue().to_pybytes()


def stream(table, sink) -> None:
  with pyarrow.ipc.new_stream(sink, table.schema) as writer:
    writer.write_table(table)


def database() -> bytes:
  with sqlite3.connect(':memory:') as connection:
    connection.execute('create table rows (question text)')
    return connection.serialize()


def numpy_array() -> bytes:
  buffer = io.BytesIO()
  np.save(buffer, np.arange(3))
  return buffer.getvalue()


POINTER = b'version https://git-lfs.github.com/spec/v1\noid sha256:4d7a21\nsize 1234\n'
TABLE = b'question,answer\nWhy?,#### 1\n'
REFUSED = [
  ('rows.jsonl', b'', 'an empty file; fix: a file of JSON lines, a JSON array or Parquet'),
  ('rows.parquet', b'', 'an empty file; fix'),
  ('rows.jsonl.gz', gzip.compress(b''), 'an empty file, gzipped; fix'),
  ('rows.jsonl', zipped(), 'a ZIP archive or a spreadsheet; fix: unpack it'),
  ('rows.parquet', zipped(), 'a ZIP archive or a spreadsheet; fix: unpack it'),
  ('rows.tar', tarred(), 'a tar archive; fix: unpack it'),
  ('rows.tar.gz', gzip.compress(tarred()), 'a tar archive, gzipped; fix: unpack it'),
  ('rows.jsonl.zst', pyarrow.Codec('zstd').compress(lines()).to_pybytes(), 'compressed by zstd; fix: unpack it'),
  ('rows.jsonl.bz2', bz2.compress(lines()), 'compressed by bzip2; fix: unpack it'),
  ('rows.jsonl.xz', lzma.compress(lines()), 'compressed by xz; fix: unpack it'),
  ('rows.jsonl.lz4', pyarrow.Codec('lz4').compress(lines()).to_pybytes(), 'compressed by lz4; fix: unpack it'),
  ('rows.arrow', arrow(pyarrow.feather.write_feather), 'an Arrow file; fix: export it as JSON lines'),
  ('rows.arrow', arrow(stream), 'an Arrow stream; fix: export it'),
  ('rows.orc', arrow(pyarrow.orc.write_table), 'an ORC file; fix: export it'),
  ('rows.pkl', pickle.dumps(RECORDS), 'a pickle; fix: export it'),
  ('rows.npy', numpy_array(), 'a NumPy array; fix: export it'),
  ('rows.db', database(), 'an SQLite database; fix: export it'),
  ('rows.pdf', b'%PDF-1.7\n', 'a PDF document; fix: export it'),
  ('rows.jsonl', lines().decode().encode('utf-16'), 'text in UTF-16 or UTF-32; fix: save it as UTF-8'),
  ('rows.jsonl', lines().decode().encode('utf-16-le'), 'text in UTF-16 or UTF-32; fix: save it as UTF-8'),
  ('rows.jsonl', lines().decode().encode('utf-16-be'), 'text in UTF-16 or UTF-32; fix: save it as UTF-8'),
  ('rows.jsonl', lines().decode().encode('utf-32'), 'text in UTF-16 or UTF-32; fix: save it as UTF-8'),
  ('rows.json', array(indent=1).decode().encode('utf-16'), 'text in UTF-16 or UTF-32; fix'),
  ('rows.jsonl', POINTER, 'a Git LFS pointer, which stands for the file; fix: fetch the file with git lfs pull'),
  ('rows.parquet', POINTER, 'a Git LFS pointer, which stands for the file; fix'),
  ('rows.jsonl', b'\n<!DOCTYPE html>\n<html><body>404</body></html>', 'a web page .*; fix: fetch the file itself'),
  ('rows.parquet', b'<html lang="en">', 'a web page .*; fix: fetch the file itself'),
  ('rows.jsonl', MARK + b'<?xml version="1.0"?>', 'a web page or another XML document; fix'),
  ('rows.csv', TABLE, 'a table of comma- or tab-separated values; fix: export it'),
  ('rows.jsonl', TABLE, 'a table of comma- or tab-separated values; fix: export it'),
  ('rows.tsv', TABLE.replace(b',', b'\t'), 'a table of comma- or tab-separated values; fix'),
  ('rows.csv', b'Why is 1 + 1 = 2?,#### 1\n', 'a table of comma- or tab-separated values; fix'),
  ('rows.csv.gz', gzip.compress(TABLE), 'a table of comma- or tab-separated values, gzipped; fix'),
  ('rows.json', json.dumps({'data': RECORDS}, indent=1).encode(), 'one JSON object over several lines; fix: one object a line'),
  ('rows.json', array()[:-40], r'a JSON array that is damaged or cut off behind element 4 \(.*\); fix: fetch it anew'),
  ('rows.json', array()[:-1], r'a JSON array that is damaged or cut off behind element 5 \(.*\); fix: fetch it anew'),
  ('rows.json', array().replace(b'}, {', b'} {', 1), r'a JSON array that is damaged .* element 1 \(neither a comma'),
  ('rows.json', b'[' * 100_000, 'a JSON array that is damaged or cut off behind element 0'),
  ('rows.json', array().decode().encode('latin-1', 'replace'), 'a JSON array that is not UTF-8 .*; fix: save it as UTF-8'),
  ('rows.jsonl.gz', gzip.compress(lines())[:-9], r'a damaged gzip file \(.*\); fix: fetch it anew'),
  ('rows.jsonl.gz', gzip.compress(lines())[:12], r'a damaged gzip file \(.*\); fix: fetch it anew'),
  ('rows.jsonl.gz', gzip.compress(lines())[:-8] + bytes(8), r'a damaged gzip file \(.*\); fix: fetch it anew'),
  ('rows.pq', parquet()[:-20], r'not a Parquet file \(.*\); fix: fetch it anew'),
  ('rows.pq.gz', gzip.compress(parquet()[:-20]), r'not a Parquet file \(.*\); fix: fetch it anew'),
  ('rows.pq', no_text(), r"not a Parquet file \('utf-8' codec .*\); fix: fetch it anew"),
]


@pytest.mark.parametrize(('name', 'content', 'said'), REFUSED, ids=[f'{i}-{case[0]}' for i, case in enumerate(REFUSED)])
def test_a_file_of_another_kind_says_what_it_is(tmp_path, name, content, said):
  path = saved(tmp_path, name, content)
  for on_error in ('raise', 'skip'):
    with pytest.raises(DataError, match=rf"^data.path = '{path}': {said}"):
      read(path, on_error=on_error)


def test_the_commands_say_what_kind_of_file_they_were_given(tmp_path, tiny_model):
  path = saved(tmp_path, 'rows.csv', TABLE)
  assert path_problem(BENCHMARKS['gsm8k'], path, 'train').startswith(f'{path!r}: a table of')  # before a device is touched
  with pytest.raises(SystemExit, match=rf"^error: --data = '{path}': a table of comma- or tab-separated values; fix: export"):
    prepare_data.main(['--benchmark=gsm8k', f'--data={path}', '--split=train', f'--output={tmp_path}/out'])
  with pytest.raises(SystemExit, match=rf"^error: --data = '{path}': a table of comma- or tab-separated values; fix: export"):
    tiny_model.main([f'--data={path}', f'--output={tmp_path}/out'])
  assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize(
  ('files', 'said'),
  [
    (['train.jsonl', 'README.md'], r'a directory without dataset_info.json; fix: .* or the file .*/README.md, say'),
    (['a.parquet'], r'a directory without dataset_info.json; fix: .* or the file .*/a.parquet, say'),
    ([], 'a directory without dataset_info.json; fix: .* or a JSON-lines file'),
    (['dataset_info.json', 'state.json', 'data-0.arrow'], 'a directory of the package datasets; fix: a file that its to_json'),
    (['dataset_dict.json'], 'a directory of the package datasets; fix: a file that its to_json'),
  ],
)
def test_a_directory_that_nobody_prepared_says_so(tmp_path, files, said):
  for name in files:
    (tmp_path / name).write_text('{}')
  with pytest.raises(DataError, match=rf"^data.path = '{tmp_path}': {said}"):
    read(str(tmp_path))

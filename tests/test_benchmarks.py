"""Benchmarks: what becomes of their records, where they come from, and what is said of those that are malformed."""

import json
import pathlib
import subprocess
import sys

import huggingface_hub
import pyarrow
import pyarrow.parquet
import pytest
from benchmark_data import dapo, gsm8k, hendrycks, published, write

from espo_jax import prepare_data
from espo_jax.tasks import BENCHMARKS, DataError, grade
from espo_jax.tasks.sources import Rows, read_rows

pytestmark = pytest.mark.quick

ROOT = pathlib.Path(__file__).parents[1]


def read(name: str, path, split: str = 'train', **options) -> Rows:
  return read_rows(BENCHMARKS[name], str(path), split, 'data.path', **options)


def row_of(name: str, record: dict):
  return BENCHMARKS[name].parse('FILE:1', record)


# ------------------------------------------------------------------------------------------------------------- records


def test_gsm8k_loses_its_calculations_and_states_a_plain_number():
  row = row_of('gsm8k', gsm8k(1002))
  assert row.problem == 'Mia has 1002 pens and buys 1005 more. How many pens has she now?'
  assert row.solution == 'She has 1002+1005 = 2007 pens.\n#### 2007'
  assert row.answer == '2007'


@pytest.mark.parametrize(
  ('final', 'answer'),
  [('18', '18'), ('1,800', '1800'), ('$1,800.50', '1800.50'), ('-3', '-3'), ('-$3.', '-3'), ('$-3', '-3'), ('.5', '.5')],
)
def test_gsm8k_numbers(final, answer):
  assert row_of('gsm8k', {'question': 'a', 'answer': f'#### 1\n#### {final}'}).answer == answer


@pytest.mark.parametrize(
  ('written', 'solution', 'answer'),
  [
    (r'So $x = \boxed{3}$.', r'So $x = \boxed{3}$.', '3'),
    (r'\boxed{\frac{\sqrt{3}}{2}}', r'\boxed{\frac{\sqrt{3}}{2}}', r'\frac{\sqrt{3}}{2}'),
    (r'\boxed{15\frac{39}{40}} or \boxed{\frac{639}{40}}.', r'{15\frac{39}{40}} or \boxed{\frac{639}{40}}.', r'\frac{639}{40}'),
    (r'$\boxed{\left\{ 1, \} \right\}}$', r'$\boxed{\left\{ 1, \} \right\}}$', r'\left\{ 1, \} \right\}'),
    (r'\fbox{7} it is', r'\boxed{7} it is', '7'),
    (r'the answer is $\boxed 5$', r'the answer is $\boxed{5}$', '5'),
    (r'the answer is $\boxed\pi$', r'the answer is $\boxed{\pi}$', r'\pi'),
    (r'\boxed{\text{Evelyn}} is it', r'\boxed{\text{Evelyn}} is it', r'\text{Evelyn}'),
    (r'\boxed{ (3,\infty) }', r'\boxed{(3,\infty)}', r'(3,\infty)'),
  ],
)
def test_math_takes_the_answer_out_of_the_last_box(written, solution, answer):
  row = row_of('math', {'problem': 'p', 'solution': written, 'level': 'Level 5', 'type': 'Algebra'})
  assert (row.problem, row.solution, row.answer) == ('p', solution, answer)
  assert grade(row.solution, row.answer)


def test_math500_has_its_answer_twice():
  record = {'problem': 'p', 'solution': r'$\boxed{p - q}$', 'answer': 'p - q'}
  assert row_of('math500', record).answer == 'p - q'
  with pytest.raises(DataError, match=r"FILE:1: field 'answer': 'q', but the solution's box holds 'p - q'; fix"):
    row_of('math500', record | {'answer': 'q'})


@pytest.mark.parametrize(('answer', 'expected'), [(27.0, '27'), (27, '27'), ('204', '204'), ('025', '25'), (-3.0, '-3')])
def test_a_contest_answer_is_a_whole_number(answer, expected):
  for name in ('aime24', 'amc23'):
    for field in ('problem', 'question'):
      row = row_of(name, {field: 'p', 'answer': answer, 'solution': 'See $\\framebox{9}$.'})
      assert (row.problem, row.solution, row.answer) == ('p', None, expected)


def test_dapo_is_the_problem_without_its_instructions():
  row = row_of('dapo_math_17k', dapo(7))
  assert row == ('FILE:1 (index id-7)', 'Find the root of $x = 7$.', None, '7')
  bare = dapo(7)
  bare['prompt'][0]['content'] = 'Solve the following riddle.\n\nWhat?'
  assert row_of('dapo_math_17k', bare).problem == 'Solve the following riddle.\n\nWhat?'


def test_dapo_takes_each_problem_once(tmp_path):
  found = read('dapo_math_17k', write(tmp_path / 'dapo.jsonl', [dapo(i % 4) for i in range(12)]))
  assert [row.answer for row in found.rows] == ['0', '1', '2', '3']
  assert found.repeats == 8
  assert not found.skipped


@pytest.mark.parametrize('name', ['gsm8k', 'math'])
def test_others_keep_what_they_repeat(tmp_path, name):
  record = {'gsm8k': gsm8k, 'math': hendrycks}[name](5)
  found = read(name, write(tmp_path / 'rows.jsonl', [record] * 3))
  assert (len(found.rows), found.repeats) == (3, 0)


@pytest.mark.parametrize(
  ('name', 'file', 'rows', 'first'),
  [
    ('gsm8k', 'gsm8k_train.jsonl', 7473, '72'),
    ('gsm8k', 'gsm8k_test.jsonl', 1319, '18'),
    ('math500', 'math500_test.jsonl', 500, r'\left( 3, \frac{\pi}{2} \right)'),
    ('aime24', 'aime24_test.jsonl', 30, '204'),
    ('amc23', 'amc23_test.jsonl', 40, '27'),
  ],
)
def test_the_published_files_are_read_whole(name, file, rows, first):
  found = read(name, published(file))
  assert (len(found.rows), found.rows[0].answer, found.skipped) == (rows, first, [])


# ----------------------------------------------------------------------------------------------------------- malformed

GOOD = json.dumps(gsm8k(1)).encode()
LONE = '{"question": "a\\ud800", "answer": "#### 1"}'


def changed(record: dict, **fields) -> str:
  return json.dumps({name: value for name, value in (record | fields).items() if value is not ...})


def message(**fields) -> list:
  return [{'role': 'user', 'content': 'Why?'} | fields]


BAD_ROWS = [
  ('gsm8k', '{"question": "a"', 'not JSON .*; fix: one JSON object a line'),
  ('gsm8k', b'\xff\xfe', 'not JSON'),
  ('gsm8k', '[' * 100_000, 'not JSON'),
  ('gsm8k', '["a", "b"]', 'not an object but list; fix'),
  ('gsm8k', '3', 'not an object but int'),
  ('gsm8k', changed(gsm8k(1), question=...), "field 'question': missing; fix: add it"),
  ('gsm8k', changed(gsm8k(1), answer=...), "field 'answer': missing; fix: add it"),
  ('gsm8k', changed(gsm8k(1), question=3), "field 'question': int instead of text; fix"),
  ('gsm8k', changed(gsm8k(1), answer=None), "field 'answer': NoneType instead of text; fix"),
  ('gsm8k', changed(gsm8k(1), question=' '), "field 'question': empty; fix"),
  ('gsm8k', LONE, "field 'question': not valid Unicode"),
  ('gsm8k', changed(gsm8k(1), answer='18'), "field 'answer': no '####'; fix: end the answer with '#### ' and the number"),
  ('gsm8k', changed(gsm8k(1), answer='#### '), "field 'answer': '' after '####' is not a number; fix"),
  ('gsm8k', changed(gsm8k(1), answer='#### many'), "field 'answer': 'many' after '####' is not a number; fix"),
  ('gsm8k', changed(gsm8k(1), answer='#### 1/2'), "field 'answer': .* is not a number"),
  ('gsm8k', changed(gsm8k(1), answer='#### 9e99999'), "field 'answer': .* is not a number"),
  ('gsm8k', changed(gsm8k(1), answer='#### 3\nand so on'), "field 'answer': .* is not a number"),
  ('math', changed(hendrycks(2), solution=...), "field 'solution': missing; fix"),
  ('math', changed(hendrycks(2), solution='It is 3.'), r"field 'solution': no complete \\boxed.*; fix"),
  ('math', changed(hendrycks(2), solution=r'$\boxed{\frac{1}{2}$'), r"field 'solution': no complete \\boxed"),
  ('math', changed(hendrycks(2), solution=r'$\boxed{}$'), r"field 'solution': no complete \\boxed"),
  ('math', changed(hendrycks(2), problem={'text': 'p'}), "field 'problem': dict instead of text; fix"),
  ('math500', changed(hendrycks(2)), "field 'answer': missing; fix"),
  ('amc23', '{"problem": "p", "answer": NaN}', 'not JSON .*NaN'),
  ('amc23', '{"problem": "p", "answer": true}', "field 'answer': bool instead of text"),
  ('amc23', '{"problem": "p", "answer": 27.5}', "field 'answer': '27.5' is not a whole number; fix"),
  ('amc23', '{"problem": "p", "answer": 1e999}', "field 'answer': inf is not a finite number; fix"),
  ('aime24', '{"problem": "p", "answer": "m+n"}', "field 'answer': 'm\\+n' is not a whole number; fix"),
  ('aime24', '{"answer": "204"}', "field 'question': missing; fix"),
  ('dapo_math_17k', changed(dapo(1), prompt='Why?'), "field 'prompt': not one message of the user; fix"),
  ('dapo_math_17k', changed(dapo(1), prompt=[]), "field 'prompt': not one message of the user"),
  ('dapo_math_17k', changed(dapo(1), prompt=['Why?']), "field 'prompt': not one message of the user"),
  ('dapo_math_17k', changed(dapo(1), prompt=message(role='system')), "field 'prompt': not one message of the user"),
  ('dapo_math_17k', changed(dapo(1), prompt=message() * 2), "field 'prompt': not one message of the user"),
  ('dapo_math_17k', changed(dapo(1), prompt=message(content=None)), "field 'content': NoneType instead of text"),
  ('dapo_math_17k', changed(dapo(1), reward_model={}), "field 'reward_model.ground_truth': missing; fix"),
  ('dapo_math_17k', changed(dapo(1), reward_model='7'), "field 'reward_model.ground_truth': missing; fix"),
  ('dapo_math_17k', changed(dapo(1), extra_info=None), "field 'extra_info.index': missing; fix"),
]


@pytest.mark.parametrize(('name', 'line', 'said'), BAD_ROWS, ids=range(len(BAD_ROWS)))
def test_a_malformed_row_names_file_line_and_field(tmp_path, name, line, said):
  good = {'gsm8k': gsm8k(1), 'math': hendrycks(2), 'dapo_math_17k': dapo(1)}
  good |= {'math500': hendrycks(2) | {'answer': r'\frac{1}{2}'}}
  good['amc23'] = good['aime24'] = {'question': 'p', 'answer': 3.0}
  fine, line = json.dumps(good[name]).encode(), line if isinstance(line, bytes) else line.encode()
  path = tmp_path / 'bad.jsonl'
  path.write_bytes(fine + b'\n\n' + line + b'\n' + fine + b'\n')
  with pytest.raises(
    DataError, match=rf'^{path}:3( \(index id-1\))?: {said}.*; or go on without the row: (--config.data.)?on_error=skip$'
  ):
    read(name, path)
  found = read(name, path, on_error='skip')
  assert [row.place.partition(' ')[0] for row in found.rows] == [f'{path}:1', f'{path}:4'][: len(found.rows)]
  assert len(found.rows) + found.repeats == 2
  assert [skipped.place for skipped in found.skipped] == [f'{path}:3']
  assert not found.skipped[0].reason.startswith(str(path))


def test_a_row_that_holds_a_special_token_is_malformed(tmp_path):
  path = write(tmp_path / 'rows.jsonl', [gsm8k(1), gsm8k(2) | {'question': 'Say <|end|> and go on?'}])
  with pytest.raises(DataError, match=r"rows.jsonl:2: the problem holds '<\|end\|>', a special token .*; fix: take it out"):
    read('gsm8k', path, forbidden=('<|start|>', '<|end|>'))
  assert len(read('gsm8k', path, on_error='skip', forbidden=('<|end|>',)).rows) == 1


def test_byte_order_mark_and_windows_line_ends_are_fine(tmp_path):
  path = tmp_path / 'windows.jsonl'
  path.write_bytes(b'\xef\xbb\xbf' + GOOD + b'\r\n' + GOOD)
  assert len(read('gsm8k', path).rows) == 2


# ------------------------------------------------------------------------------------------------------------- sources


def empty_directory(folder: pathlib.Path) -> pathlib.Path:
  (folder / 'empty').mkdir()
  return folder / 'empty'


def file_of(folder: pathlib.Path, name: str, content: bytes) -> pathlib.Path:
  (folder / name).write_bytes(content)
  return folder / name


def prepared(folder: pathlib.Path, benchmark: str = 'gsm8k') -> pathlib.Path:
  records = {'gsm8k': gsm8k, 'dapo_math_17k': dapo}[benchmark]
  path = folder / f'{benchmark}_prepared'
  prepare_data.prepare(benchmark, write(folder / 'rows.jsonl', [records(i) for i in range(50)]), 'train', str(path))
  return path


def damaged(folder: pathlib.Path, pattern: str, content: bytes | None) -> pathlib.Path:
  directory = prepared(folder)
  (file,) = directory.glob(pattern)
  if content is None:
    file.unlink()
  else:
    file.write_bytes(content)
  return directory


BAD_SOURCES = [
  (lambda folder: folder / 'none.jsonl', 'no such file or directory; fix: a JSON-lines file, a directory .*, or openai/gsm8k'),
  (lambda folder: 'openai/gsm', 'no such file or directory; fix: .* or openai/gsm8k to fetch gsm8k from the Hugging Face Hub'),
  (empty_directory, 'a directory without dataset_info.json; fix: one that python -m espo_jax.prepare_data wrote'),
  (lambda folder: file_of(folder, 'empty.jsonl', b'\n \n'), "no rows; fix: set data.path to a source with rows .* 'gsm8k'"),
  (lambda folder: file_of(folder, 'bad.parquet', b'PAR1'), 'not a Parquet file .*; fix'),
  (lambda folder: prepared(folder, 'dapo_math_17k'), "holds the benchmark 'dapo_math_17k', not 'gsm8k'; fix: data.benchmark ="),
  (lambda folder: damaged(folder, 'dataset_info.json', b'{'), 'not a readable data set .*; fix: write it anew'),
  (lambda folder: damaged(folder, 'features.json', None), 'not a readable data set .*; fix: write it anew'),
  (lambda folder: damaged(folder, '*array_record*', b''), 'damaged .*; fix: write it anew'),
  (lambda folder: damaged(folder, '*array_record*', None), 'damaged .*; fix: write it anew'),
  (lambda folder: damaged(folder, '*array_record*', b'x' * 70_000), 'damaged .*; fix: write it anew'),
]


@pytest.mark.parametrize(('make', 'said'), BAD_SOURCES, ids=range(len(BAD_SOURCES)))
def test_a_source_that_cannot_be_used_names_the_config_field(tmp_path, make, said):
  with pytest.raises(DataError, match=rf"^data.path = '.*': {said}"):
    read('gsm8k', make(tmp_path))


def test_a_file_of_nothing_but_malformed_rows_is_no_source(tmp_path):
  path = write(tmp_path / 'rows.jsonl', [{}, {}])
  with pytest.raises(DataError, match=r"all 2 rows are malformed, such as .*rows.jsonl:1: field 'question': missing"):
    read('gsm8k', path, on_error='skip')


def parquet(path: pathlib.Path, records: list) -> str:
  pyarrow.parquet.write_table(pyarrow.Table.from_pylist(records), path, row_group_size=3)
  return str(path)


@pytest.mark.parametrize(('name', 'make'), [('gsm8k', gsm8k), ('math', hendrycks), ('dapo_math_17k', dapo)])
def test_parquet_gives_the_same_rows(tmp_path, name, make):
  records = [make(i + 1) for i in range(10)]
  lines, table = write(tmp_path / 'rows.jsonl', records), parquet(tmp_path / 'rows.parquet', records)
  expected = [row._replace(place=row.place.replace('.jsonl', '.parquet')) for row in read(name, lines).rows]
  assert read(name, table).rows == expected


class TestHub:
  def test_every_file_of_the_split_is_fetched(self, tmp_path, monkeypatch):
    asked = []

    def download(repository, file, *, repo_type):
      asked.append((repository, file, repo_type))
      return parquet(tmp_path / f'{len(asked)}.parquet', [hendrycks(10 * len(asked) + i) for i in range(2)])

    monkeypatch.setattr(huggingface_hub, 'hf_hub_download', download)
    found = read('math', 'EleutherAI/hendrycks_math')
    assert len(asked) == 7
    assert asked[0] == ('EleutherAI/hendrycks_math', 'algebra/train-00000-of-00001.parquet', 'dataset')
    assert len(found.rows) == 14
    assert found.rows[1].place == 'EleutherAI/hendrycks_math/algebra/train-00000-of-00001.parquet:2'

  def test_offline_says_what_to_do(self, tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, 'HF_HUB_OFFLINE', True)
    monkeypatch.setattr(huggingface_hub.constants, 'HF_HUB_CACHE', str(tmp_path))
    said = (
      r"data.path = 'openai/gsm8k': cannot fetch main/train.* from the Hugging Face Hub .*; fix: where there is a network, run "
      r'python -m espo_jax.prepare_data --benchmark=gsm8k --data=openai/gsm8k .* and set data.path to that directory'
    )
    with pytest.raises(DataError, match=said):
      read('gsm8k', 'openai/gsm8k')

  def test_a_split_that_is_not_there(self):
    with pytest.raises(DataError, match=r"'HuggingFaceH4/MATH-500': holds no train split but test; fix"):
      read('math500', 'HuggingFaceH4/MATH-500')

  @pytest.mark.parametrize('name', BENCHMARKS)
  def test_every_benchmark_says_where_it_is(self, name):
    benchmark = BENCHMARKS[name]
    assert benchmark.name == name
    assert len(benchmark.hub.split('/')) == 2
    assert benchmark.files
    assert all(file.endswith(('.parquet', '.jsonl')) for files in benchmark.files.values() for file in files)


# ------------------------------------------------------------------------------------------------------------ prepared

ROUND_TRIP = """
import importlib.machinery, sys
find = importlib.machinery.PathFinder.find_spec
def without(name, path=None, target=None):
  return None if name.partition('.')[0] == 'tensorflow' else find(name, path, target)
importlib.machinery.PathFinder.find_spec = without
from espo_jax import prepare_data
from espo_jax.tasks import BENCHMARKS
from espo_jax.tasks.sources import read_rows
for name, path in zip(sys.argv[1::2], sys.argv[2::2]):
  prepare_data.main([f'--benchmark={name}', f'--data={path}', '--split=train', f'--output={path}.prepared'])
  lines, records = (read_rows(BENCHMARKS[name], p, 'train', 'data.path').rows for p in (path, path + '.prepared'))
  assert lines == records and len(lines) > 0
import tensorflow_datasets
assert 'tensorflow' not in sys.modules
try:
  import tensorflow
except ImportError:
  print('no tensorflow')
"""


def test_json_lines_survive_array_record_without_tensorflow(tmp_path):
  odd = gsm8k(1) | {'question': ' \x00 \u2028 é \U0001f600 "\\n" '}
  paths = {
    'gsm8k': write(tmp_path / 'gsm8k.jsonl', [odd, *(gsm8k(i) for i in range(300))]),
    'dapo_math_17k': write(tmp_path / 'dapo.jsonl', [dapo(i) for i in range(20)]),
  }
  words = [word for pair in paths.items() for word in pair]
  result = subprocess.run(
    [sys.executable, '-c', ROUND_TRIP, *words], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
  )
  assert result.returncode == 0, result.stderr
  assert 'wrote 301 rows of gsm8k' in result.stdout
  assert result.stdout.endswith('no tensorflow\n')


def test_a_prepared_directory_is_a_data_set_of_tensorflow_datasets(tmp_path):
  import tensorflow_datasets as tfds

  builder = tfds.builder_from_directory(prepared(tmp_path))
  source = builder.as_data_source(split='train')
  assert (builder.name, len(source)) == ('gsm8k', 50)
  assert source[7]['answer'] == b'17'


def test_preparing_twice_or_over_something_else_is_refused(tmp_path, capsys):
  path = prepared(tmp_path)
  before = sorted(path.iterdir())
  with pytest.raises(DataError, match=r'--output=.*gsm8k_prepared: exists and is not an empty directory; fix'):
    prepared(tmp_path)
  assert sorted(path.iterdir()) == before
  with pytest.raises(SystemExit, match=r'error: --data = .*none.jsonl'):
    prepare_data.main(['--benchmark=gsm8k', f'--data={tmp_path}/none.jsonl', '--split=train', f'--output={tmp_path}/other'])
  assert not (tmp_path / 'other').exists()


def test_the_command_lists_what_it_leaves_out(tmp_path, capsys):
  path = write(tmp_path / 'rows.jsonl', [gsm8k(1), {'question': 'a'}])
  command = ['--benchmark=gsm8k', f'--data={path}', '--split=train', f'--output={tmp_path}/out']
  with pytest.raises(SystemExit, match=r"error: .*rows.jsonl:2: field 'answer': missing"):
    prepare_data.main(command)
  prepare_data.main([*command, '--on_error=skip'])
  printed = capsys.readouterr().out
  assert f"left out {path}:2: field 'answer': missing" in printed
  assert 'wrote 1 rows of gsm8k' in printed
  assert '1 malformed' in printed

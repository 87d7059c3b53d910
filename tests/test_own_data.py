"""Data of the user's own: fields by name and by path, answers that are numbers, kinds of files, and what is said of slips."""

import decimal
import gzip
import json
import pathlib

import huggingface_hub
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from benchmark_data import gsm8k, tokenizer, write
from tiny import write_checkpoint

from espo_jax.configs import default_config
from espo_jax.evaluate import evaluation
from espo_jax.evaluate.__main__ import main as evaluate_main
from espo_jax.monitor import write_run_info
from espo_jax.names import data_file
from espo_jax.tasks import DataError, Math, find_benchmark, grade
from espo_jax.tasks.sources import path_problem, read_rows

pytestmark = pytest.mark.quick

NAMES = ('ask', 'result.final')


def mine(i: int) -> dict:
  """A record of a form that no benchmark has; the answer is 2 i + 3."""
  return {'id': i, 'ask': f'What is {i} plus {i + 3}?', 'result': {'final': 2 * i + 3, 'steps': [f'{i} and {i + 3}.', 'Add.']}}


def read(path, *names: str, **options):
  return read_rows(find_benchmark('jsonl', *(names or NAMES)), str(path), 'train', 'data.path', **options).rows


# ---------------------------------------------------------------------------------------------------------------- fields

RECORDS = [  # a record, the names of its fields, and what they hold
  ({'q': ' Why? ', 'a': 'So.'}, ('q', 'a'), 'Why?', 'So.'),
  ({'problem': {'text': 'Why?'}, 'a': 7}, ('problem.text', 'a'), 'Why?', '7'),
  ({'messages': [{'content': 'Why?'}, {'content': '-3'}]}, ('messages.0.content', 'messages.1.content'), 'Why?', '-3'),
  ({'q': 'Why?', 'answers': [['4', '5'], ['6']]}, ('q', 'answers.0.-1'), 'Why?', '5'),
  ({'q.text': 'Why?', 'q': {'text': 'No.'}, 'a': '1'}, ('q.text', 'a'), 'Why?', '1'),
  ({'0': 'Why?', '1': '2'}, ('0', '1'), 'Why?', '2'),
  ({'问题': '为什么?', 'réponse': '½'}, ('问题', 'réponse'), '为什么?', '½'),
  ({'q': 'Why?', 'a': 27.0}, ('q', 'a'), 'Why?', '27'),
  ({'q': 'Why?', 'a': 0.5}, ('q', 'a'), 'Why?', '0.5'),
  ({'q': 'Why?', 'a': 0}, ('q', 'a'), 'Why?', '0'),
  ({'q': 'Why?', 'a': 1e-7}, ('q', 'a'), 'Why?', '0.0000001'),
  ({'q': 'Why?', 'a': 10**30}, ('q', 'a'), 'Why?', '1' + '0' * 30),
  ({'q': 'Why?', 'a': 'It is 3 + 4.\n#### 7'}, ('q', 'a'), 'Why?', '7'),  # as GSM8K writes it
  ({'q': 'Why?', 'a': r'So $x = \boxed{\frac{1}{2}}$.'}, ('q', 'a'), 'Why?', r'\frac{1}{2}'),
  ({'q': 'Why?', 'a': decimal.Decimal('18.50')}, ('q', 'a'), 'Why?', '18.50'),  # a Parquet column of decimals
]


@pytest.mark.parametrize(('record', 'names', 'problem', 'answer'), RECORDS, ids=range(len(RECORDS)))
def test_a_field_is_read_by_its_name_or_its_path(record, names, problem, answer):
  assert find_benchmark('jsonl', *names).parse('FILE:1', record) == ('FILE:1', problem, None, answer)


@pytest.mark.parametrize(
  ('solution', 'stands'),
  [
    (r'So \boxed{5}.', True),
    ('So\n#### 5', True),
    ('It is five.', False),
    (r'First \boxed{', False),
    ('#### Setup\n2 and 3.\n#### Sum\nTogether they make 5 fruits for the 2 friends.', False),  # headings, no marks
    (r'First \boxed{3}.', False),
  ],
)
def test_a_solution_ends_in_a_form_that_the_grader_reads(solution, stands):
  row = find_benchmark('jsonl', 'q', 'a', 's').parse('FILE:1', {'q': 'Why?', 'a': 5, 's': solution})
  assert row.solution == (solution if stands else f'{solution}\n\\boxed{{5}}')
  assert grade(row.solution, row.answer) or solution.endswith('{')


BAD = [  # a line, the names of the fields, and what is said of it
  (
    '{"aks": "Why?", "result": {"final": 5}}',
    NAMES,
    "'ask': missing; the record has aks, result.final; fix: FLAG.problem_field=aks",
  ),
  ('{"ask": "Why?", "result": {"finale": 5}}', NAMES, "'result.final': missing; .*; fix: FLAG.answer_field=result.finale"),
  ('{"data": {"ask": "Why?"}, "a": 1}', ('ask', 'a'), "'ask': missing; .* data.ask, a; fix: FLAG.problem_field=data.ask"),
  ('{"ask": "Why?", "xyz": 5}', ('ask', 'number'), "'number': missing; the record has ask, xyz; fix: FLAG.answer_field=NAME"),
  ('{"ask": ["Why?"], "a": 5}', ('ask', 'a'), "'ask': a list instead of text; .*; fix: FLAG.problem_field=ask.0"),
  ('{"ask": {"text": "Why?"}, "a": 5}', ('ask', 'a'), "'ask': an object instead of text; .*; fix: FLAG.problem_field=ask.text"),
  ('{"ask": "Why?", "a": [1]}', ('ask', 'a.1'), "'a.1': missing; the record has ask, a.0; fix: FLAG.answer_field=a.0"),
  ('{"ask": "Why?", "a": []}', ('ask', 'a'), "'a': a list instead of text or a number; .*; fix: text or a number, or take"),
  ('{"ask": "Why?", "a": null}', ('ask', 'a'), "'a': null instead of text or a number; the record has ask, a; fix: text or"),
  ('{"ask": null, "a": 5}', ('ask', 'a'), "'ask': null instead of text; the record has ask, a; fix: text, or take the row out"),
  ('{"ask": 3, "a": 5}', ('ask', 'a'), "'ask': a number instead of text; .*; fix: text, or take the row out"),
  ('{"ask": "Why?", "a": true}', ('ask', 'a'), "'a': true or false instead of text or a number; .*; fix"),
  ('{"ask": "Why?", "a": %s}' % ('9' * 4000), ('ask', 'a'), "'a': an answer of 4000 characters, which cannot be graded"),
  ('{"ask": "Why?", "a": 1e999}', ('ask', 'a'), "'a': inf is not a finite number; fix: a number, or text"),
  (
    json.dumps({'ask': 'Why?', 'a': 'so ' * 400}),
    ('ask', 'a'),
    "'a': an answer of 1199 characters, .*; fix: the final answer alone",
  ),
  ('{"ask": "Why?", "a": "Nothing. ####"}', ('ask', 'a'), "'a': an answer of 0 characters, .*; fix: the final answer alone"),
  ('{"ask": " ", "a": 5}', ('ask', 'a'), "'ask': empty; the record has ask, a; fix: fill it in, or take the row out"),
  ('{"ask": "Why?", "a": ""}', ('ask', 'a'), "'a': empty; the record has ask, a; fix: fill it in"),
  ('{"ask": "\\ud800", "a": 5}', ('ask', 'a'), "'ask': not valid Unicode"),
  ('{}', NAMES, "'ask': missing; the record has no fields; fix: FLAG.problem_field=NAME"),
  (json.dumps({f'x{i}': i for i in range(99)}), NAMES, "'ask': missing; the record has x0, .* x11, ...; fix"),
]


@pytest.mark.parametrize(('line', 'names', 'said'), BAD, ids=range(len(BAD)))
def test_a_bad_field_names_file_line_and_field_and_those_that_there_are(tmp_path, line, names, said):
  good = {'ask': 'Why?', 'result': {'final': 1}, 'a': [5, 6] if names[1] == 'a.1' else 5, 'number': 5}
  path = tmp_path / 'mine.jsonl'
  path.write_text(f'{json.dumps(good)}\n{line}\n')
  said = said.replace('FLAG', '--config.data').replace('...;', r'\.\.\.;')
  with pytest.raises(DataError, match=rf'^{path}:2: field {said}.*; or go on without the row: --config.data.on_error=skip$'):
    read(path, *names)
  found = read_rows(find_benchmark('jsonl', *names), str(path), 'train', 'data.path', on_error='skip')
  assert (len(found.rows), [skipped.place for skipped in found.skipped]) == (1, [f'{path}:2'])


# ----------------------------------------------------------------------------------------------------------------- files


def parquet(path: pathlib.Path, records: list) -> pathlib.Path:
  pyarrow.parquet.write_table(pyarrow.Table.from_pylist(records), path)
  return path


def lines(records: list) -> bytes:
  return ''.join(json.dumps(record) + '\n' for record in records).encode()


FILES = {
  'lines': lines,
  'gzip': lambda records: gzip.compress(lines(records)),
  'bom': lambda records: b'\xef\xbb\xbf' + lines(records).replace(b'\n', b'\r\n'),
  'array': lambda records: json.dumps(records, indent=1).encode(),
  'gzipped array': lambda records: gzip.compress(json.dumps(records).encode()),
}


@pytest.mark.parametrize('kind', [*FILES, 'parquet', 'hub', 'page of the hub'])
def test_every_kind_of_file_gives_the_same_rows(tmp_path, monkeypatch, kind):
  records, path = [mine(i) for i in range(5)], tmp_path / 'rows.any'
  if kind in FILES:
    path.write_bytes(FILES[kind](records))
  else:
    parquet(path, records)
  if 'hub' in kind:
    asked, fetched = [], str(path)
    monkeypatch.setattr(
      huggingface_hub, 'hf_hub_download', lambda *names, repo_type: asked.append((*names, repo_type)) or fetched
    )
    path = 'hf://datasets/me/sums/all/part.parquet'
    path = path.replace('hf:/', 'https://huggingface.co').replace('/all', '/blob/main/all') if 'page' in kind else path
  assert path_problem(find_benchmark('jsonl', *NAMES), str(path), 'train') is None
  rows = read(path)
  assert [row.answer for row in rows] == ['3', '5', '7', '9', '11']
  assert rows[1] == (f'{path}:2', 'What is 1 plus 4?', None, '5')
  if 'hub' in kind:
    assert asked == [('me/sums', 'all/part.parquet', 'dataset')]


@pytest.mark.parametrize(
  ('path', 'named'),
  [
    ('hf://datasets/me/sums/train.jsonl', ('me/sums', 'train.jsonl')),
    ('https://huggingface.co/datasets/me/sums/resolve/main/a/b.parquet?download=true', ('me/sums', 'a/b.parquet')),
    ('hf://datasets/me/sums', None),
    ('me/sums/train.jsonl', None),
    ('data/train.jsonl', None),
    ('https://example.com/datasets/me/sums/train.jsonl', None),
  ],
)
def test_a_file_on_the_hub_is_told_by_its_address(path, named):
  assert data_file(path) == named


def test_a_file_that_cannot_be_fetched_says_what_to_do(tmp_path, monkeypatch):
  monkeypatch.setattr(huggingface_hub.constants, 'HF_HUB_OFFLINE', True)
  monkeypatch.setattr(huggingface_hub.constants, 'HF_HUB_CACHE', str(tmp_path))
  with pytest.raises(
    DataError, match=r"^data.path = 'hf://datasets/me/sums/x.jsonl': .*; fix: hf download me/sums x.jsonl --repo-type"
  ):
    read('hf://datasets/me/sums/x.jsonl')


@pytest.mark.parametrize('place', ['none.jsonl', '.', 'me/sums'])
def test_a_place_without_a_file_is_answered_by_what_may_stand_there(tmp_path, monkeypatch, place):
  monkeypatch.chdir(tmp_path)
  said = path_problem(find_benchmark('jsonl', *NAMES), place, 'train')
  assert said.startswith(f'{place!r}: ') and 'fix: a file of JSON lines' in said and 'hf://datasets/OWNER/NAME/FILE' in said


# ------------------------------------------------------------------------------------------------------- task and commands


@pytest.fixture(scope='module')
def directory(tmp_path_factory) -> str:
  return tokenizer(tmp_path_factory.mktemp('model'))


def model(directory: str) -> str:
  """The directory, with the shape of a model."""
  shape = {'hidden_size': 16, 'intermediate_size': 24, 'num_hidden_layers': 1, 'num_attention_heads': 2, 'vocab_size': 384}
  (pathlib.Path(directory) / 'config.json').write_text(json.dumps({'model_type': 'qwen2', 'num_key_value_heads': 1} | shape))
  return directory


def test_a_task_asks_ones_own_problems_and_holds_some_out(directory, tmp_path):
  path = write(tmp_path / 'mine.jsonl', [mine(i) for i in range(80)])
  task = Math(directory, 'jsonl', path, problem_field='ask', answer_field='result.final')
  assert task.size('train') + task.size('test') == 80 and 0 < task.size('test') < 20
  problem = task.problem('test', 0)
  assert task.question(problem).startswith('What is ') and task.verify(problem, f'The answer is {problem.answer}.')
  assert not task.verify(problem, 'The answer is 2.')


def test_a_warm_start_reads_the_solutions_and_nothing_else_does(directory, tmp_path):
  records = [mine(i) | {'why': f'It is {2 * i + 3}.'} for i in range(40)]
  path = write(tmp_path / 'mine.jsonl', records)
  test = write(tmp_path / 'test.jsonl', [mine(i) for i in range(100, 104)])
  given = {'path': path, 'eval_path': test, 'problem_field': 'ask', 'answer_field': 'result.final', 'solution_field': 'why'}
  task = Math(directory, 'jsonl', **given, needs_solutions=True)
  assert task.solution(task.problem('train', 0), np.random.default_rng(0)).endswith('}') and task.size('test') == 4
  write(tmp_path / 'mine.jsonl', [mine(i) for i in range(40)])
  assert Math(directory, 'jsonl', **given).size('train') == 40
  with pytest.raises(
    DataError, match=r"mine.jsonl:1: field 'why': missing; the record has id, ask, result.final, result.steps.0"
  ):
    Math(directory, 'jsonl', **given, needs_solutions=True)


@pytest.mark.parametrize(
  'flags', [{}, {'benchmark': 'jsonl'}, {'benchmark': 'jsonl', 'answer_field': 'id'}, {'benchmark': 'gsm8k'}]
)
def test_an_evaluation_of_a_run_knows_the_runs_own_fields(directory, tmp_path, monkeypatch, flags):
  class Asked(Exception):
    """The answers to the problems that the evaluation came to ask."""

  def answer(exp, policy, problems, *_):
    raise Asked([problem.answer for problem in problems])

  path = write(tmp_path / 'mine.jsonl', [mine(i) for i in range(3)])
  config = default_config()
  config.task.name, config.stages, config.model.path, config.rollout.prompt_width = 'math', ('rl',), model(directory), 256
  config.data.update(
    {'benchmark': 'jsonl', 'path': path, 'eval_path': path, 'problem_field': 'ask', 'answer_field': 'result.final'}
  )
  write_run_info(tmp_path / 'run', config.to_dict())
  write_checkpoint(tmp_path / 'run' / 'arms' / 'espo' / 'checkpoints' / '1')
  monkeypatch.setattr(evaluation, '_answer', answer)
  data = {'data': write(tmp_path / 'other.jsonl', [gsm8k(7)]) if flags['benchmark'] == 'gsm8k' else path} if flags else {}
  with pytest.raises(Asked) as asked:
    evaluation.evaluate(evaluation.Request(checkpoint=str(tmp_path / 'run'), **flags, **data))
  answers = {'gsm8k': ['17']}.get(flags.get('benchmark'), ['0', '1', '2'] if 'answer_field' in flags else ['3', '5', '7'])
  assert asked.value.args == (answers,)


@pytest.mark.parametrize(
  ('words', 'said'),
  [
    (['--benchmark=jsonl', '--problem_field=ask', '--answer_field=a'], '--data is missing: .*; fix: --data=FILE'),
    (
      ['--benchmark=jsonl', '--data={}'],
      "--problem_field = '': with --benchmark = 'jsonl' a field holds the problem; fix: --problem_field=NAME",
    ),
    (
      ['--benchmark=gsm8k', '--data={}', '--problem_field=ask'],
      '--problem_field=ask: only --benchmark=jsonl reads fields by name',
    ),
    (
      ['--benchmark=jsonl', '--data={}', '--problem_field=aks', '--answer_field=id'],
      ':1: field .aks.: .*; fix: --problem_field=ask',
    ),
  ],
)
def test_an_evaluation_of_ones_own_data_says_what_is_wrong_in_its_flags(directory, tmp_path, words, said):
  path = write(tmp_path / 'mine.jsonl', [mine(i) for i in range(3)])
  model(directory)
  with pytest.raises(SystemExit, match=said) as caught:
    evaluate_main([f'--checkpoint={directory}', f'--output={tmp_path / "out"}', *(word.format(path) for word in words)])
  assert '--config' not in str(caught.value) and 'data.' not in str(caught.value).replace(str(tmp_path), '')

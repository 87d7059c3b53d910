"""GSM8K: reading, epochs, and the grading of numbers."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from espo_jax.tasks import DataError, Gsm8k, get, grade_number
from espo_jax.tasks.numbers import parse_number


def record(i: int) -> dict[str, str]:
  return {
    'question': f'Mia has {i} pens and buys {i + 3} more. How many pens has she now?',
    'answer': f'She has {i}+{i + 3} = <<{i}+{i + 3}={2 * i + 3}>>{2 * i + 3} pens.\n#### {2 * i + 3:,}',
  }


def write(path, records) -> str:
  path.write_text(''.join(json.dumps(r) + '\n' for r in records), encoding='utf-8')
  return str(path)


@pytest.fixture(scope='module')
def paths(tmp_path_factory):
  folder = tmp_path_factory.mktemp('data')
  train = write(folder / 'train.jsonl', [record(i) for i in range(40)])
  return train, write(folder / 'test.jsonl', [record(i) for i in range(1000, 1012)])


@pytest.fixture(scope='module')
def task(paths):
  return Gsm8k(*paths, vocab_size=300)


def test_problem_and_solution(task):
  problem = task.problem('test', 2)
  assert problem.prompt == 'Mia has 1002 pens and buys 1005 more. How many pens has she now?\n'
  assert problem.answer == '2007'
  assert task.solution(problem, np.random.default_rng(0)) == 'She has 1002+1005 = 2007 pens.\n#### 2007'
  assert (task.size('train'), task.size('test'), task.dropped) == (40, 12, 0)


def test_every_solution_verifies_and_round_trips(task):
  tokenizer = task.tokenizer()
  for split in ('train', 'test'):
    for index in range(task.size(split)):
      problem = task.problem(split, index)
      response = task.solution(problem, np.random.default_rng(0))
      assert task.verify(problem, response)
      assert not task.verify(problem, response + '1')
      assert tokenizer.decode(tokenizer.encode(problem.prompt + response)) == problem.prompt + response
      assert len(tokenizer.encode(response)) + 1 <= task.max_response_tokens


def test_an_epoch_covers_each_row_once_in_its_own_order(task, paths):
  epochs = [[task.problem('train', 40 * epoch + i).prompt for i in range(40)] for epoch in range(3)]
  assert all(len(set(epoch)) == 40 for epoch in epochs)
  assert set(epochs[0]) == set(epochs[1])
  assert epochs[0] != epochs[1] != epochs[2]
  again, other = Gsm8k(*paths, vocab_size=300), Gsm8k(*paths, vocab_size=300, seed=1)
  assert [again.problem('train', i) for i in (119, 3)] == [task.problem('train', i) for i in (119, 3)]
  assert [other.problem('train', i).prompt for i in range(40)] != epochs[0]
  assert len({task.problem('train', i).id for i in range(120)}) == 120


def test_test_split_is_in_file_order_and_ends(task):
  assert [task.problem('test', i).answer for i in range(12)] == [str(2 * i + 3) for i in range(1000, 1012)]
  with pytest.raises(IndexError, match='the test split has 12 rows'):
    task.problem('test', 12)
  with pytest.raises(ValueError, match="unknown split 'dev'"):
    task.problem('dev', 0)


def test_without_a_test_file_a_tenth_is_held_out(tmp_path):
  path = write(tmp_path / 'all.jsonl', [record(i) for i in range(500)])
  task = get('gsm8k', path=path, vocab_size=300)
  train = {task.problem('train', i).prompt for i in range(task.size('train'))}
  test = [task.problem('test', i) for i in range(task.size('test'))]
  assert len(train) + len(test) == 500
  assert 30 <= len(test) <= 75
  assert not train & {p.prompt for p in test}
  assert [int(p.answer) for p in test] == sorted(int(p.answer) for p in test)


def test_rows_that_do_not_fit_are_dropped_and_counted(paths, tmp_path):
  long_question = {'question': 'why ' * 200, 'answer': '#### 1'}
  long_answer = {'question': 'Short?', 'answer': 'so ' * 200 + '\n#### 1'}
  train = write(tmp_path / 'train.jsonl', [*(record(i) for i in range(10)), long_question, long_answer])
  task = Gsm8k(train, paths[1], vocab_size=258, max_prompt_tokens=100, max_response_tokens=80)
  assert (task.dropped, task.size('train')) == (2, 10)
  with pytest.raises(DataError, match='none of 12 train rows fits max_prompt_tokens = 100 and max_response_tokens = 2; fix'):
    Gsm8k(train, paths[1], vocab_size=258, max_prompt_tokens=100, max_response_tokens=2)


def test_the_end_token_counts_towards_the_limit(paths, tmp_path):
  train = write(tmp_path / 'train.jsonl', [{'question': 'a?', 'answer': '#### 1'}, {'question': 'b?', 'answer': '#### 12'}])
  task = Gsm8k(train, paths[1], vocab_size=258, max_response_tokens=7)
  assert (task.dropped, task.problem('train', 0).answer) == (1, '1')


def test_a_test_prompt_that_does_not_fit_is_an_error(paths, tmp_path):
  test = write(tmp_path / 'test.jsonl', [record(1), {'question': 'why ' * 200, 'answer': '#### 1'}])
  with pytest.raises(DataError, match=r"test\.jsonl:2: field 'question': .* more than max_prompt_tokens = 100; fix"):
    Gsm8k(paths[0], test, vocab_size=258, max_prompt_tokens=100)


GOOD = json.dumps(record(1)).encode()


@pytest.mark.parametrize(
  ('line', 'message'),
  [
    (b'{"question": "a"', 'not JSON .*; fix: one JSON object a line'),
    (b'\xff\xfe', 'not JSON'),
    (b'[' * 100_000, 'not JSON'),
    (b'["a", "b"]', 'not an object but list; fix'),
    (b'3', 'not an object but int'),
    (b'{"answer": "#### 1"}', "field 'question': missing; fix"),
    (b'{"question": "a"}', "field 'answer': missing; fix"),
    (b'{"question": 3, "answer": "#### 1"}', "field 'question': int instead of text; fix"),
    (b'{"question": "a", "answer": null}', "field 'answer': NoneType instead of text; fix"),
    (b'{"question": " ", "answer": "#### 1"}', "field 'question': empty; fix"),
    (b'{"question": "a", "answer": ""}', "field 'answer': empty; fix"),
    (b'{"question": "a", "answer": "18"}', "field 'answer': no '####'; fix: end the answer with '#### ' and the number"),
    (b'{"question": "a", "answer": "#### "}', "field 'answer': '' after '####' is not a number; fix"),
    (b'{"question": "a", "answer": "#### many"}', "field 'answer': 'many' after '####' is not a number; fix"),
    (b'{"question": "a", "answer": "#### 1/2"}', "field 'answer': .* is not a number"),
    (b'{"question": "a", "answer": "#### 9e999999999"}', "field 'answer': .* is not a number"),
    (b'{"question": "a", "answer": "#### 3\\nand so on"}', "field 'answer': .* is not a number"),
    (b'{"question": "a\\ud800", "answer": "#### 1"}', "field 'question': not valid Unicode"),
  ],
)
def test_malformed_line_names_file_line_and_field(tmp_path, line, message):
  path = tmp_path / 'bad.jsonl'
  path.write_bytes(GOOD + b'\n\n' + line + b'\n' + GOOD + b'\n')
  with pytest.raises(DataError, match=f'^{path}:3: {message}'):
    Gsm8k(str(path), vocab_size=258)


def test_files_that_cannot_be_used_name_the_config_field(paths, tmp_path):
  with pytest.raises(DataError, match=r"data.path = '.*/none.jsonl': No such file or directory; fix: set data.path"):
    Gsm8k(str(tmp_path / 'none.jsonl'))
  with pytest.raises(DataError, match=r"data.eval_path = '.*/none.jsonl': No such file"):
    Gsm8k(paths[0], str(tmp_path / 'none.jsonl'))
  with pytest.raises(DataError, match='Is a directory'):
    Gsm8k(str(tmp_path))
  (tmp_path / 'empty.jsonl').write_text('\n \n')
  with pytest.raises(DataError, match='no rows; fix'):
    Gsm8k(str(tmp_path / 'empty.jsonl'))


def test_byte_order_mark_and_windows_line_ends_are_fine(tmp_path, paths):
  path = tmp_path / 'windows.jsonl'
  path.write_bytes(b'\xef\xbb\xbf' + GOOD + b'\r\n' + GOOD)
  assert Gsm8k(str(path), paths[1], vocab_size=258).size('train') == 2


@pytest.mark.parametrize(
  'response',
  [
    '#### 1800', '####1800', 'so\n#### 1,800', '#### $1,800', '#### $1800.00', '#### 1800.', '#### 1,800 dollars.',
    '#### 1800%', '#### 1800 km/h', '#### 7\n#### 1800', '#### 1800\n', '#### 1800\nThe end.', '#### 01800', '####  $ 1800',
    '#### 1800 m²',
  ],
)  # fmt: skip
def test_right_numbers(response):
  assert grade_number(response, '1800')


@pytest.mark.parametrize(
  'response',
  [
    '', '1800', '####', '#### ', '#### 1800\n####', '#### 1800 ####', '####\n1800', '#### 1801', '#### -1800', '#### 1800.01',
    '#### 18,00', '#### 1800 or 1801', '#### 1800/1', '#### 900*2', '#### 900+900', '#### 18e2', '#### 1.8e3',
    '#### 9e999999999', '#### Infinity', '#### NaN', '#### ' + '0' * 100 + '1800', '#### 1800' + ' ' * 100 + 'x',
    '#### ١٨٠٠', '#### 1800²',
    '#### 1_800', '#### 0x708', '#### (1800', '#### about 1800', '#### --1800', '#### 1,800,00', '###  1800', '#### 1800=1800',
  ],
)  # fmt: skip
def test_wrong_numbers(response):
  assert grade_number(response, '1800') is False


@pytest.mark.parametrize(
  ('response', 'answer'), [('#### -3', '-3'), ('#### -$3', '-3'), ('#### $-3', '-3'), ('#### .5', '0.5')]
)
def test_signs_and_fractions(response, answer):
  assert grade_number(response, answer)


def test_grading_is_exact():
  assert not grade_number('#### 0.3000000000000000000001', '0.3')
  assert not grade_number('#### 100000000000000000000000000000000000001', '100000000000000000000000000000000000000')
  assert grade_number('#### 0.30', '.3')


@given(text=st.text() | st.text('0123456789#$.,-+eE /', max_size=30))
@settings(max_examples=200, deadline=None)
def test_hostile_text_never_raises(text):
  number = parse_number(text)
  assert number is None or number.is_finite()
  assert grade_number('#### ' + text, '123456789123') in (True, False)
  assert grade_number(text.replace('#', ''), '1') is False


def test_hostile_size_is_bounded():
  assert grade_number('####' * 200_000 + '9' * 1_000_000, '1') is False
  assert grade_number('#### 1' + ',000' * 200_000, '1') is False

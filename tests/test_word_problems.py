"""The word problems that `scripts/make_word_problems.py` writes: every equation holds, and no problem is in both splits."""

import json
import pathlib
import re
import runpy

import pytest

SCRIPT = pathlib.Path(__file__).parents[1] / 'scripts' / 'make_word_problems.py'
EQUATION = re.compile(r'(\d+) ([+-]) (\d+) = (\d+)')


@pytest.fixture(scope='module')
def written(tmp_path_factory):
  folder = tmp_path_factory.mktemp('word_problems')
  runpy.run_path(str(SCRIPT))['main']([f'--output={folder}', '--train=300', '--test=50'])
  lines = {split: (folder / f'{split}.jsonl').read_text().splitlines() for split in ('train', 'test')}
  return {split: [json.loads(line) for line in texts] for split, texts in lines.items()}


def test_every_equation_of_a_solution_holds_and_every_step_states_the_answer(written):
  for record in written['train'] + written['test']:
    first, second = map(int, re.findall(r'\d+', record['problem']))
    *steps, conclusion = record['solution'].split('\n\n')
    assert record['answer'] == str(first + second)
    assert conclusion == f'\\boxed{{{record["answer"]}}}'
    for step in steps:
      ((left, sign, right, result),) = EQUATION.findall(step)
      assert int(left) + int(sign + right) == int(result)
      assert step.endswith(f'The answer is {record["answer"]}.')


def test_solutions_check_themselves_from_never_to_three_times(written):
  checks = [record['solution'].count('\n\n') - 1 for record in written['train']]
  assert set(checks) == {0, 1, 2, 3}


def test_the_splits_share_no_problem(written):
  texts = [record['problem'] for split in written.values() for record in split]
  assert len(set(texts)) == len(texts) == 350

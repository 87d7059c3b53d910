"""Evaluation problems that also stand in the training set."""

import time

import pytest
from benchmark_data import published
from hypothesis import given, settings
from hypothesis import strategies as st

from espo_jax.tasks import BENCHMARKS
from espo_jax.tasks.benchmarks import Row
from espo_jax.tasks.overlap import WORDS, find_overlaps, words_of
from espo_jax.tasks.sources import read_rows

pytestmark = pytest.mark.quick

_TEXTS = st.lists(st.lists(st.sampled_from('abc'), max_size=18), max_size=6)


def rows(*problems: str) -> list[Row]:
  return [Row(f'FILE:{i}', problem, None, '1') for i, problem in enumerate(problems, start=1)]


def found(train: list[str], test: list[str]) -> list[tuple[str, str, float]]:
  return [(o.test.problem, o.train.problem, o.share) for o in find_overlaps(rows(*train), rows(*test))]


def counted(first: int, last: int) -> str:
  return ' '.join(str(i) for i in range(first, last + 1))


@pytest.mark.parametrize(
  ('text', 'words'),
  [
    ('Let $x^2 = \\frac{1}{2}$, and\n\\[y=3.\\]', 'let x 2 1 2 and y 3'),
    ('A  B\tc', 'a b c'),
    ('snake_case, don\u2019t', 'snake case don t'),
    ('\uff11\uff12 \ufb01t', '12 fit'),
    ('\\[ \\]', ''),
  ],
)
def test_words(text, words):
  assert words_of(text) == words.split()


def test_a_copy_is_found_whatever_its_typography():
  problem = 'Mia has $5$ pens, and buys \\textbf{three} more on each of the four days. How many pens has she?'
  copy = 'MIA has 5 pens and buys three more,\non each of the four days -- how many pens has she'
  assert found(['Another problem.', copy], [problem]) == [(problem, copy, 1.0)]


def test_thirteen_words_in_a_row_overlap_and_twelve_do_not():
  test = counted(1, 30)
  assert found([f'a b c {counted(5, 5 + WORDS - 1)} d e f'], [test]) == [
    (test, f'a b c {counted(5, 5 + WORDS - 1)} d e f', 1 / 18)
  ]
  assert not found([f'a b c {counted(5, 5 + WORDS - 2)} d e f'], [test])


def test_a_short_problem_overlaps_whole_or_not_at_all():
  assert found(['What is $1+1$?'], ['what is 1 + 1']) == [('what is 1 + 1', 'What is $1+1$?', 1.0)]
  assert not found(['Tell me: what is $1+1$?', 'What is $1+2$?'], ['What is $1+1$?'])
  assert not found(['What is $1+1$?'], [f'What is $1+1$? {counted(1, 20)}'])
  assert not found(['\\[ \\]'], ['\\( \\)'])


def test_the_nearest_training_problem_is_named():
  test, near, far = counted(1, 30), f'{counted(1, 25)} x', f'y {counted(10, 25)}'
  assert found([far, near, far], [test]) == [(test, near, 13 / 18)]


@given(_TEXTS, _TEXTS)
@settings(max_examples=100, deadline=None)
def test_as_by_comparing_every_pair(train, test):
  def overlap(a, b):
    if len(a) < WORDS:
      return bool(a) and a == b
    return any(a[i : i + WORDS] == b[j : j + WORDS] for i in range(len(a) - WORDS + 1) for j in range(len(b) - WORDS + 1))

  train, test = rows(*map(' '.join, train)), rows(*map(' '.join, test))
  expected = [b.place for b in test if any(overlap(b.problem.split(), a.problem.split()) for a in train)]
  assert [o.test.place for o in find_overlaps(train, test)] == expected


def test_gsm8k_in_two_seconds():
  train, test = (
    read_rows(BENCHMARKS['gsm8k'], published(f'gsm8k_{split}.jsonl'), split, 'data.path').rows for split in ('train', 'test')
  )
  start = time.process_time()
  overlaps = find_overlaps(train, test)
  assert time.process_time() - start < 2
  assert {o.test.place.rpartition(':')[2]: round(o.share, 2) for o in overlaps} == {'582': 0.1, '603': 0.54, '633': 0.3}
  assert len(find_overlaps(train, train[:500])) == 500

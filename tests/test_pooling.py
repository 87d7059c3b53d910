"""Equal answers are spelled alike, different ones apart; each task says what a response states."""

import pytest

from espo_jax import tasks
from espo_jax.tasks.grading.pooling import pooled_answer

pytestmark = pytest.mark.quick


@pytest.mark.parametrize(
  'responses',
  [
    [r'\boxed{\frac12}', 'The answer is 0.5.', '#### 1/2', r'so $x = \boxed{x = \dfrac{2}{4}\text{ cm}}$'],
    [r'\boxed{(B)}', r'\boxed{B}', 'The answer is (B).', r'\boxed{\text{(B)}}'],
    [r'\boxed{50\%}', r'\boxed{50}', r'\boxed{2 \times 20 + 10 = 50}', r'\boxed{n_1 = 50}'],
    [r'\boxed{3, 1}', r'\boxed{\{1, 3\}}', r'\boxed{1 \text{ and } 3}', r'\boxed{x=1, x=3}'],
    [r'\boxed{1,234}', '#### 1234', r'\boxed{1234.0}', r'\boxed{\$1,\!234}'],
    [r'\boxed{1,000, 2}', r'\boxed{2 \text{ or } 1000}'],
    [r'\boxed{2x^2 + 1}', r'\boxed{2 x^{2}+1}'],
    [r'\boxed{\text{Evelyn}}', r'\boxed{\text{(Evelyn)}}', 'the answer is evelyn'],
    ['', '<think> 5', r'\boxed{' + '9' * 2000 + '}', r'\boxed{'],
  ],
)
def test_equal_answers_are_one(responses):
  assert len({pooled_answer(response) for response in responses}) == 1


def test_different_answers_are_many():
  texts = [
    '1/2',
    '2',
    '-2',
    '20',
    '0.52',
    '(1, 2)',
    '(2, 1)',
    '[1, 2]',
    '1, 2',
    'x',
    'y',
    'x^2',
    '50',
    r'\sqrt{2}',
    'x + y = 50',
    'x \\le 50',
  ]
  assert len({pooled_answer(rf'\boxed{{{text}}}') for text in texts}) == len(texts)
  assert all(pooled_answer(rf'\boxed{{{text}}}') for text in texts)


def test_huge_numbers_are_spelled_in_no_time():
  assert pooled_answer(r'\boxed{' + '9' * 990 + 'e999}').startswith('999')


def test_what_the_written_tasks_state():
  chain, countdown = tasks.get('chain'), tasks.get('countdown')
  assert chain.stated_answer('a+1=4b-2=2#2') == '2'
  assert chain.stated_answer('a+1=4b-2=') == ''
  assert countdown.stated_answer('3+2=5,7*5=35;7*2=14,14+3=17!') == '7*2=14,14+3=17'
  assert countdown.stated_answer('3+2=5,7*5=35;') == ''

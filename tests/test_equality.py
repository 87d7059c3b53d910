"""What counts as equal: small differences count, forms do not."""

import pytest
from equality_cases import FAMILIES, SMALL

from espo_jax.tasks import Grader
from espo_jax.tasks.grading.quantifiers import without_quantifiers
from espo_jax.tasks.grading.quantities import parse_number, same_number, written_out
from espo_jax.tasks.grading.spelling import spell

pytestmark = pytest.mark.quick


@pytest.fixture(scope='module')
def wrongly():
  """Grades cases; gives back the pairs of gold answer and prediction that were judged wrongly, with their verdicts."""
  with Grader(deadline=30.0) as grader:

    def judge(cases, swapped=False):
      pairs = [(case.gold, other, True) for case in cases for other in case.equal]
      pairs += [(case.gold, other, False) for case in cases for other in case.unequal]
      if swapped:
        pairs = [(other, gold, equal) for gold, other, equal in pairs]
      verdicts = grader.grade_all([(rf'\boxed{{{other}}}', gold) for gold, other, _ in pairs])
      return [(*pair, verdict) for pair, verdict in zip(pairs, verdicts, strict=True) if verdict != (pair[2], 'ok')]

    yield judge


@pytest.mark.parametrize('case', SMALL, ids=[case.gold for case in SMALL])
@pytest.mark.parametrize('swapped', [False, True])
def test_a_small_difference_is_one(wrongly, case, swapped):
  assert wrongly([case], swapped) == []


@pytest.mark.parametrize('family', FAMILIES)
def test_a_form_is_no_difference(wrongly, family):
  assert wrongly(FAMILIES[family]) == []


@pytest.mark.parametrize(
  ('decimal', 'value', 'same'),
  [
    ('0.333333', '1/3', True), ('0.047619', '1/21', True), ('0.0009766', '1/1024', True), ('3.333333e-7', '1/3000000', True),
    ('0.000000', '1/1000000000', False), ('0.000977', '1/1024', False), ('3.333333e-7', '1/3500000', False),
    ('1.234567e-20', '1/1000000000', False), ('9.999999e-300', '1/7', False),
    ('0.33333', '1/3', False), ('0.0000001', '0/5', False),
  ],
)  # fmt: skip
def test_a_decimal_stands_for_the_fraction_that_its_digits_are_of(decimal, value, same):
  assert same_number(parse_number(decimal), parse_number(value)) is same
  assert same_number(parse_number(value), parse_number(decimal)) is same


@pytest.mark.parametrize(
  ('text', 'written'),
  [
    ('1.5e-3', '0.0015'), ('-2e-3', '-0.002'), (r'1.50 \times 10^{3}', '1500'), (r'1.505 \times 10^2', '150.5'),
    ('1e3', '1000'), ('0.5', '0.5'), ('2e', '2e'), ('2e^{-3}', '2e^{-3}'), ('10^{-3}', '10^{-3}'), ('x', 'x'),
  ],
)  # fmt: skip
def test_powers_of_ten_are_written_out(text, written):
  assert written_out(text) == written


@pytest.mark.parametrize(
  'answer',
  [
    r'x \in \mathbb{R}',
    r'\text{for any constant } c',
    r'cx \text{ for any } c > 0',
    'A and B',
    r'x = 1, y',
    r'x=1, y \in \mathbb{R}',
  ],
)
def test_what_an_answer_consists_of_stays(answer):
  assert without_quantifiers(spell(answer)).answer == spell(answer)


def test_values_that_nobody_can_compute_are_refused_at_once():
  pairs = [
    ('e^{e^{e^{e^9}}}', 'e^{e^{e^{e^8}}}'), (r'2e^{10^9}', r'3e^{10^9}'), ('e^{10^9}+1', 'e^{10^9}+2'), ('9^{9^{9^9}}', 'x'),
    ('(10^{10})!', 'x'), ('2^{10^9}', r'\sqrt{2}'), (r'\pi^{\pi^{\pi^{\pi^\pi}}}', '2x'), ('x^{x^{x^{x^x}}}', 'x+1'),
    ('(x+y+z+w)^{200}', '(x+y+z+w)^{199}'), ('1e999999999', 'x'),
    (r'\sqrt{9^{9^9}}', '3'), ('0.' + '0' * 800 + '1', r'\sqrt{2}'),
  ]  # fmt: skip
  with Grader(workers=1, deadline=10.0) as grader:
    verdicts = grader.grade_all([(rf'\boxed{{{stated}}}', gold) for stated, gold in pairs])
  assert [pair for pair, verdict in zip(pairs, verdicts, strict=True) if verdict != (False, 'ok')] == []

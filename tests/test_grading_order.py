"""Of several statements of an answer the last one counts; talk about an answer is none."""

import pytest

from espo_jax.tasks import grade
from espo_jax.tasks.grading.answers import final_answer
from espo_jax.tasks.grading.pooling import pooled_answer

pytestmark = pytest.mark.quick

EARLIER = [
  r'So the sum is $\boxed{31}$.', '#### 31', 'The answer is 31.', '**Answer:** 31', '### Final Answer\n\n31',
  r'Answer: $\boxed{31}$',
]  # fmt: skip
LATER = [
  r'No, it is $\boxed{8}$.', '#### 8', 'Answer: 8', 'Wait, the answer is 8.', '**Answer: 8**', 'Final answer: 8 loaves.',
  'The final answer is $8$. I hope it is correct.', '### Final Answer\n\n8', '**Answer**\n\n**8**',
  'Therefore, the answer to the question is 8.', r'Answer: \[ 8 \]', 'Thus the answer is x = 8, since 3 of them are left.',
  'The answer is 8, of course.', 'So the correct answer is therefore 8.',
]  # fmt: skip


@pytest.mark.parametrize('later', LATER)
@pytest.mark.parametrize('earlier', EARLIER)
def test_the_last_statement_counts(earlier, later):
  text = f'We add 5 and 26.\n{earlier}\n\nWe forgot 23 that were sold.\n{later}'
  assert grade(text, '8')
  assert not grade(text, '31')
  assert pooled_answer(text) == '8'


@pytest.mark.parametrize(
  ('text', 'answer'),
  [
    (r'So \boxed{x}. **Answer: D**', 'D'),
    (r'So $x = \boxed{12}$. Answer: (B)', r'\text{(B)}'),
    (r'\boxed{4}, so the answer is C.', 'C'),
    (r'Its side is \boxed{4}. The correct choice is **(D)**.', '(D)'),
    (r'Its side is \boxed{4}. The right option is B, because 4 < 5.', 'B'),
    ('#### 17\nAnswer: E) 17', 'E'),
    (r'\boxed{4} (Answer: A)', 'A'),
    ('\\boxed{2k}\n\nAnswer: even', r'\text{even}'),
    (r'\boxed{2}. The answer is Priya.', r'\text{Priya}'),
    ('\\boxed{2}\n\n## Answer\n\nnorth', r'\text{north}'),
    (r'\boxed{x}. **Final Answer:** $x = \frac{5}{7}$', r'\frac{5}{7}'),
    (r'\boxed{x}. The final answer is given by \(\frac{5}{7}\).', r'\frac{5}{7}'),
    (r'<answer>\boxed{3} Answer: 4</answer>', '4'),
    (r'Answer: C. The side is \boxed{4}', '4'),
    ('The answer is 18.\n\nFinal Answer\n\n19', '19'),
  ],
)
def test_choices_words_and_formulas_are_statements_too(text, answer):
  assert grade(text, answer)


REMARKS = [
  'The answer is reasonable.', 'This is the correct answer since 3 + 2 = 7 - 2.', 'The answer is in the form $a/b$.',
  'Therefore, the final answer is in the box above.', 'Answer: see above', 'Final Answer: as boxed above.',
  'The answer is positive, as expected.', 'The answer is less than 10, as it must be.', 'The answer is 2 more than 3.',
  'The answer is 5 times as large as 1.', 'The answer is a 1-digit number.', 'The answer is 100% correct.',
  'The answer is approximately 5.1.', r'The answer is $\approx 4.99$.', 'As a decimal, the answer is 5.0001.',
  'The answer is 4.999...', 'If the answer is 6, then one is left over.', 'A common wrong answer is 12.',
  'The answer is not 7.', 'An incorrect answer: 12.', 'This is the answer because the square of 3 is 9.',
  'We may check our answer: $5 \\cdot 7 = 35$, so our answer is correct.', 'Suppose the answer is 4.',
  'Is the answer reasonable? Yes: 3 < 5.', 'The answer is the number of loaves.', 'The answer is between 3 and 6.',
  'Why the answer is not 4: one was sold.', 'The question is answered in 3 steps.', 'The answer is', 'Answer:',
  'Answers may vary: 3 or 4.', '#### Verification\n\nWe see that 3 + 2 = 5.', '#### 2. Check\n\nWe see that 3 + 2 = 5.',
  '#### Step 3: check\n\nIt has 3 + 2.', '#### The answer is checked', '####', '#### Note that 3 were sold',
  r'We put it in \boxed{}.', 'Each of the 7 answers is worth 2 points.', 'So the total is 7.',
]  # fmt: skip


@pytest.mark.parametrize('remark', REMARKS)
@pytest.mark.parametrize('statement', [r'Hence it is $\boxed{5}$.', '**Answer:** $\\boxed{5}$\n'])
def test_a_remark_about_the_answer_does_not_replace_a_box(statement, remark):
  text = f'{statement} {remark}'
  assert final_answer(text) == ('5', '5')
  assert final_answer(f'{statement}\n\n**{remark}**') == ('5', '5')


@pytest.mark.parametrize('remark', [remark for remark in REMARKS if '####' not in remark and 'boxed' not in remark])
def test_a_remark_about_the_answer_does_not_replace_what_follows_hashes(remark):
  assert final_answer(f'3 + 2 = 5\n#### 5\n{remark}')[1] == '5'


@pytest.mark.parametrize(
  ('text', 'answer'),
  [
    (r'The answer is 5. \boxed{}', '5'),
    (r'\boxed{5} and this I put in \boxed{ }', '5'),
    ('#### Step 2: add 3 and 2\nThe total is 5.', '5'),
    ('#### 1. Add 3 and 2\nHence it is **5**.', '5'),
    ('#### Conclusion\n\nHence there are 5.', '5'),
    ('#### 5\n#### Explanation\n\n7 - 2 is what is left.', '5'),
    ('Answer\n\nTo find it we add 3 and 2.\n\nThat makes 5', '5'),
    ('The answer is 5.\nThe answer is correct.', '5'),
    ('**Final Answer**\n\n**5**\n\nThis follows since 7 were there.', '5'),
  ],
)
def test_a_statement_that_says_nothing_is_none(text, answer):
  assert grade(text, answer)


@pytest.mark.parametrize(
  'text', [r'\boxed{}', r'\boxed{5} then \boxed{6', r'Answer: 5. Hence \boxed{5', r'Answer: \boxed{}', '####', '']
)
def test_a_text_that_is_cut_off_or_empty_states_nothing(text):
  assert not grade(text, '5')

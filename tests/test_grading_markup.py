"""Markdown around an answer changes nothing, and what only looks like Markdown stays."""

import pytest

from espo_jax.tasks import grade
from espo_jax.tasks.grading.answers import final_answer
from espo_jax.tasks.grading.markup import plain
from espo_jax.tasks.grading.pooling import pooled_answer

pytestmark = pytest.mark.quick

EMPHASIS = [
  '*%s*', '**%s**', '***%s***', '_%s_', '__%s__', '___%s___', '**_%s_**', '_**%s**_', '*__%s__*', '`%s`', '``%s``', '**`%s`**',
  '<b>%s</b>', '<strong>%s</strong>', '<em>%s</em>', '<B><I>%s</I></B>', '<span style="color: red">%s</span>', '**<u>%s</u>**',
]  # fmt: skip
SENTENCES = [  # the answer closes the last line, with no box, `####` or "answer"
  ('Hence the baker keeps %s.', '27'),
  ('There were 40 loaves.\nThe baker keeps %s', '27'),
  ('The correct choice is %s.', '(C)'),
  ('So the slope must be %s!', r'$-\frac{5}{7}$'),
  ('Thus it holds for %s.', r'x \in [-2,7)'),
  ('The price comes to %s.', r'\$1,250'),
  ('Together they need "%s".', '7.5'),
  ('This leaves us with p - q, that is %s', 'n - 3m'),
]


@pytest.mark.parametrize('emphasis', EMPHASIS)
@pytest.mark.parametrize(('sentence', 'answer'), SENTENCES)
def test_emphasis_around_the_answer_changes_nothing(sentence, answer, emphasis):
  bare, marked = sentence % answer, sentence % (emphasis % answer)
  stop_within = marked.removesuffix('.').replace(answer, f'{answer}.') if marked.endswith('.') else marked
  for text in (marked, stop_within, f'{marked}  \n'):
    assert grade(text, answer.strip('$')), text
    assert pooled_answer(text) == pooled_answer(bare) == pooled_answer(answer) != '', text
    assert final_answer(text) == final_answer(bare), text


@pytest.mark.parametrize('emphasis', EMPHASIS)
@pytest.mark.parametrize(
  'text', ['Answer: 36', 'The answer is 36.', 'Hence the baker keeps 36.', r'It is $\boxed{36}$.', '#### 36']
)
def test_emphasis_around_the_whole_sentence_changes_nothing(text, emphasis):
  marked = f'He bakes 40 and sells 4.\n\n{emphasis % text}'
  assert grade(marked, '36')
  assert pooled_answer(marked) == '36'


@pytest.mark.parametrize(
  ('text', 'answer'),
  [
    ('**Answer:** **64**', '64'),
    ('The *final* value is **64** *loaves*.', '64'),
    ('**Hence the baker keeps *64*.**', '64'),
    ('***Hence** the baker keeps 64*', '64'),
    ('- **64**', '64'),
    ('+ _64_', '64'),
    ('答案是**64**。', '64'),
    ('So it is**64**.', '64'),
    (r'$**64**$', '64'),
    (r'\boxed{**64**}', '64'),
    ('**8 * 8 = 64**', '64'),
    ('**Note.** It has 5 sides\n\n**so 64 of them', '64'),
    ('He pays **$5**, then **$64**.', '64'),
    ('It was ~~18~~ **64**.', '64'),
    ('It is 64. ~~The answer is 18.~~', '64'),
    (r'$\boxed{64}$ ~~$\boxed{18}$~~', '64'),
    ('<del>Answer: 18</del>\nAnswer: 64', '64'),
    ('Answer: <s>18</s> <b>64</b>', '64'),
    ('**~~18~~ 64**', '64'),
  ],
)
def test_what_a_rendered_text_states(text, answer):
  assert grade(text, answer)
  assert not grade(text, '18')


@pytest.mark.parametrize('emphasis', ['**%s**', '*%s*', '_%s_', '`%s`', '***%s***'])
@pytest.mark.parametrize('formula', ['2**6', '4*4*4', '4 * 4 * 4', '$4*4*4$', r'\(a_1 * a_2\)', 'x_1*y_1', 'x**2 + y**2'])
def test_powers_products_and_subscripts_survive_emphasis(formula, emphasis):
  assert final_answer(f'Hence it comes to {emphasis % formula}.')[1] == formula


@pytest.mark.parametrize('text', ['~~18~~', 'It is ~~18~~.', '<del>18</del>', r'~~\boxed{18}~~', '**~~Answer: 18~~**'])
def test_what_is_struck_out_is_not_stated(text):
  assert not grade(text, '18')
  assert pooled_answer(text) != '18'


@pytest.mark.parametrize(
  'text',
  [
    '9**9**9', '2**3', 'x**2 + y**2', '3 * 4 * 5', '3*4*5', 'a*b*c', 'z*w*', 'a^*b^* + c', 'a_1 + a_2', 'x_{12}',
    'x_1*y_1 + x_2*y_2', 'a_b_c', 'rate*time*2', 'price*number*rate', '(1)*2*(3)', '5!**2**', '$a^* *b*$', r'\(*a*\)',
    r'\begin{align*} x &= 3 \end{align*}', r'\operatorname*{max}*3*', r'\[_a_\]', r'\*27\*', r'18~~\text{km}~~', '$5*x*y$',
    r'\text{a}~~b~~c', 'a <b> c', 'a < b > c', '____', '***', '* 27', '**27', '27**', '**two\n\nparagraphs**',
    'f(*args, **options)', '```\n2 * 3\n```', 'see footnote* and note*.',
  ],
)  # fmt: skip
def test_what_only_looks_like_markdown_stays(text):
  assert plain(text) == text

"""Thoughts: tags that are special tokens, templates that open or close a thought, and thoughts that never end."""

import pathlib
from types import SimpleNamespace
from unittest import mock

import jax.numpy as jnp
import numpy as np
import pytest
from benchmark_data import TEMPLATE, gsm8k, tokenizer, write
from tokenizers import AddedToken

from espo_jax import parallel
from espo_jax.configs import default_config
from espo_jax.evaluate.answers import Answer, sample_answers
from espo_jax.experiment import Experiment, make_serial
from espo_jax.tasks import Math, decode_responses
from espo_jax.tasks.pretrained import load_tokenizer
from espo_jax.types import StopReason, Trajectories

pytestmark = pytest.mark.quick

TURN = '<|start|>assistant\n'
THINK = ('<think>', '</think>')
PAIRS = [
  THINK,
  ('<thinking>', '</thinking>'),
  ('<thought>', '</thought>'),
  ('<seed:think>', '</seed:think>'),
  ('[THINK]', '[/THINK]'),
  ('◁think▷', '◁/think▷'),
  ('<|START_THINKING|>', '<|END_THINKING|>'),
  ('<|begin_of_thought|>', '<|end_of_thought|>'),
]


def with_tokens(folder: pathlib.Path, *tokens: str, special: bool, opening: str = '') -> str:
  """A tokenizer's directory with more tokens, whose template begins the assistant's turn with `opening`."""
  made = load_tokenizer(tokenizer(folder / 'plain', TEMPLATE.replace(TURN, TURN + opening)))
  made.add_tokens([AddedToken(token, special=special, normalized=False) for token in tokens], special_tokens=special)
  made.save_pretrained(folder / 'made')
  return str(folder / 'made')


@pytest.fixture(scope='module')
def rows(tmp_path_factory) -> str:
  return write(tmp_path_factory.mktemp('data') / 'rows.jsonl', [gsm8k(i) for i in range(3)])


@pytest.fixture(scope='module')
def make(rows, tmp_path_factory):
  """Builds experiments on the task math, an own one for each tokenizer and each set of config lines."""

  def experiment(*tokens: str, special: bool = True, opening: str = '', prompt: str = 'chat', **lines) -> Experiment:
    path = with_tokens(tmp_path_factory.mktemp('model'), *tokens, special=special, opening=opening)
    task = Math(path, 'gsm8k', eval_path=rows, prompt=prompt)
    c = default_config()
    for name, value in lines.items():
      *sections, last = name.split('__')
      holder = c
      for section in sections:
        holder = holder[section]
      holder[last] = value
    return Experiment(c, task, task.tokenizer(), None, parallel.make_mesh(1, 1, 1), None, ())

  return experiment


def seen(exp: Experiment, response: str) -> SimpleNamespace:
  """What training says of a response, and what an evaluation writes down: from its tokens, as a model would give them."""
  ids = exp.tokenizer.encode(response + '<eos>', add_special_tokens=False)
  assert ids[-1] == exp.tokenizer.eos_token_id
  problem = exp.task.problem('test', 1)  # its answer is 5
  tokens, full = jnp.array([ids, ids]), jnp.full(2, len(ids), jnp.int32)
  numbers = dict.fromkeys(('logprobs', 'values', 'regret', 'z'), jnp.zeros(tokens.shape))
  counts = dict.fromkeys(('prompt_lengths', 'trained_from', 'stop_reason', 'started'), jnp.zeros_like(full))
  prompt = {'prompt_tokens': tokens, 'shadow': full < 0}
  grades = exp.grade([problem], Trajectories(tokens=tokens, length=full, full_length=full, **prompt, **numbers, **counts))
  (text,) = exp.decode(np.array([ids]), np.array([len(ids)]))
  return SimpleNamespace(
    text=text,
    right=bool(grades.correct[0]),
    reasoned=bool(grades.reasoned[0]),
    formatted=bool(grades.formatted[0]),
    stated=exp.task.stated_answer(exp.turns([problem], [text])[0]),
  )


def answers(exp: Experiment, responses: list[str]) -> list[Answer]:
  """What an evaluation writes down of responses to the problem that `seen` asks."""
  ids = [exp.tokenizer.encode(response + '<eos>', add_special_tokens=False) for response in responses]
  lengths = np.array([len(row) for row in ids])
  tokens = np.array([row + [exp.tokenizer.pad_token_id] * (max(lengths) - len(row)) for row in ids])

  class Written(Experiment):
    key = prompts = lambda self, *_: None
    put = fetch = lambda self, tree: tree
    put_rows = lambda self, tree: tree

    @property
    def sampler(self):
      return SimpleNamespace(plain=lambda **_: SimpleNamespace(turns=None))

  rows = SimpleNamespace(tokens=tokens, length=lengths, full_length=lengths, stop_reason=np.full(len(ids), StopReason.EOS))
  rows.sizes, rows.turn, rows.depth_share = lengths, None, lambda _: np.ones(len(ids))
  model = SimpleNamespace(config=SimpleNamespace(num_layers=1))
  written = Written(exp.config, exp.task, exp.tokenizer, model, exp.mesh, None, ())
  with mock.patch('espo_jax.evaluate.answers._sampled', lambda *_, **__: (rows, None)):
    (batch,) = sample_answers(written, {}, [exp.task.problem('test', 1)], 1, len(responses), 1.0)
  return batch.answers


# ------------------------------------------------------------------------------------------------------ tags that are tokens


@pytest.mark.parametrize('special', [True, False])
@pytest.mark.parametrize('pair', PAIRS, ids=lambda pair: pair[0])
def test_tags_are_read_whether_they_are_special_tokens_or_not(make, pair, special):
  opening, closing = pair
  exp = make(*pair, special=special)
  finished = seen(exp, f'{opening}\nIt may be \\boxed{{4}}.\n{closing}\nThe answer is 5.')
  assert finished.text == f'{opening}\nIt may be \\boxed{{4}}.\n{closing}\nThe answer is 5.'
  assert (finished.right, finished.stated) == (True, '5')
  cut = seen(exp, f'{opening}\nIt may be \\boxed{{5}}')
  assert (cut.right, cut.stated) == (False, '')
  assert seen(exp, 'The answer is 5.').right


@pytest.mark.parametrize('special', [True, False])
@pytest.mark.parametrize(
  ('opening', 'pattern', 'response', 'reasoned'),
  [
    ('', None, '<think>\n2 + 3</think>\n5', True),
    ('', None, '<think>\n\n</think>\n5', False),
    ('', None, '5', False),
    ('<think>\n', None, '2 + 3</think>\n5', True),
    ('<think>', None, '\n</think>\n5', False),
    ('', r'<plan>.+</plan>', '<plan>add</plan>\n5', True),
    ('', r'<\|plan\|>', '<|plan|>add\n5', True),
    ('', r'\[PLAN\].*\[/PLAN\]', '[PLAN]add[/PLAN]\n5', True),
    ('', r'<\|plan\|>', 'add\n5', False),
  ],
)
def test_rewards_see_the_tags_that_their_patterns_name(make, special, opening, pattern, response, reasoned):
  tokens = [*THINK, '<plan>', '</plan>', '<|plan|>', '[PLAN]', '[/PLAN]']
  lines = {} if pattern is None else {'reward__reasoning': pattern, 'reward__format': pattern}
  found = seen(make(*tokens, special=special, opening=opening, **lines), response)
  assert found.text == response
  assert (found.reasoned, found.right) == (reasoned, True)
  assert pattern is None or found.formatted == reasoned


@pytest.mark.parametrize('special', [True, False])
def test_answer_tags_are_read_whether_they_are_special_tokens_or_not(make, special):
  exp = make(*THINK, '<answer>', '</answer>', special=special)
  assert seen(exp, '<think>a</think><answer>5</answer>\nThat took 9 steps.').right
  assert not seen(exp, '<think>a</think><answer>9</answer>\nThat took 5 steps.').right


@pytest.mark.parametrize('token', ['<|start|>', '<|end|>', '<eos>', '<pad>', '<|im_end|>', '<tool>', '<bos>'])
def test_other_special_tokens_are_no_text(make, token):
  exp = make(*THINK, '<|im_end|>', '<tool>', '<bos>')
  assert seen(exp, f'{token}<think>a</think>5{token}').text == '<think>a</think>5'


def test_the_end_token_is_no_text_even_where_a_pattern_names_it(make):
  exp = make(*THINK, reward__format=r'</think>.*<eos>$')
  assert seen(exp, '<think>a</think>5').text == '<think>a</think>5'


def test_a_token_that_is_not_special_is_text(make):
  exp = make('<tool>', special=False)
  assert decode_responses(exp.tokenizer, np.array([exp.tokenizer.encode('a<tool>b')]), np.array([3])) == ['a<tool>b']


@pytest.mark.parametrize('special', [True, False])
@pytest.mark.parametrize('opening', ['', '<think>\n', '<think>'])
@pytest.mark.parametrize(('inducer', 'answered'), [('\n</think>\n\n', True), ('\nTime is up.\n', False)])
def test_the_serial_rollout_closes_a_thought_with_tags_that_are_tokens(make, special, opening, inducer, answered):
  lines = {'rollout__serial__inducer': inducer, 'rollout__serial__end_of_thinking': '</think>'}
  exp = make(*THINK, special=special, opening=opening, **lines)
  serial = make_serial(exp.config, exp.tokenizer, (exp.tokenizer.eos_token_id,))
  assert serial.end_of_thinking == exp.tokenizer.convert_tokens_to_ids('</think>')
  assert (serial.end_of_thinking in serial.inducer) == answered
  begun = '' if opening else '<think>'
  assert seen(exp, f'{begun}2 + 3 = \\boxed{{5}} or{inducer}\\boxed{{5}}').right == answered


@pytest.mark.parametrize(('held', 'refused'), [('<think>two</think>', False), ('<|end|>', True), ('<eos>', True)])
def test_a_written_solution_may_hold_a_thought(tmp_path, held, refused):
  path = with_tokens(tmp_path, *THINK, special=True)
  data = write(tmp_path / 'rows.jsonl', [gsm8k(1) | {'answer': f'{held}\n#### 5'}, gsm8k(2)])
  task = Math(path, 'gsm8k', data, eval_path=data, on_error='skip')
  assert task.size('train') == 1 + (not refused)


# -------------------------------------------------------------------------------------------- thoughts that a template opens

OPENED = [f'<think>{space}' for space in ('', '\n', '\n\n', ' ', '\nOkay, ')]
CLOSED = [f'<think>{space}</think>{end}' for space, end in (('', ''), ('\n\n', '\n\n'), ('\n', '\n'), (' ', ''))]


@pytest.mark.parametrize('opening', ['', *OPENED, *CLOSED, '[THINK]', '<|START_THINKING|>'])
def test_r1_opens_one_thought_whatever_the_template_writes(rows, tmp_path, opening):
  path = with_tokens(tmp_path, special=False, opening=opening)
  prompt, chat = (Math(path, 'gsm8k', eval_path=rows, prompt=kind).problem('test', 1).prompt for kind in ('r1', 'chat'))
  assert chat.endswith(TURN + opening)
  unopened = opening in ('', *CLOSED)
  assert prompt == (chat.removesuffix(opening) + '<think>\n' if unopened else chat)


@pytest.mark.parametrize('special', [True, False])
@pytest.mark.parametrize(
  ('opening', 'prompt'),
  [*((opening, kind) for opening in (*OPENED, '[THINK]') for kind in ('chat', 'r1')), *((x, 'r1') for x in ('', *CLOSED))],
)
def test_a_thought_that_the_prompt_opened_has_no_answer_before_its_end(make, opening, prompt, special):
  exp = make(*THINK, '[THINK]', '[/THINK]', opening=opening, prompt=prompt, special=special)
  closing = '[/THINK]' if opening == '[THINK]' else '</think>'
  for cut in ('So 2 + 3 = 5.', 'It is \\boxed{5}', '#### 5', 'The answer is 5', '5'):
    found = seen(exp, cut)
    assert (found.right, found.stated) == (False, ''), cut
  for whole in (f'So 4.{closing}\nThe answer is 5.', f'{closing}5', f'\\boxed{{4}}\n{closing}\n\n\\boxed{{5}}'):
    assert (seen(exp, whole).right, seen(exp, whole).stated) == (True, '5'), whole
  solution = exp.task.solution(exp.task.problem('test', 1), np.random.default_rng(0))
  assert solution.endswith(f'{closing}\n\n\\boxed{{5}}')
  assert seen(exp, solution).right


@pytest.mark.parametrize('opening', ['', *CLOSED])
def test_without_an_open_thought_a_response_answers_with_its_last_line(make, opening):
  exp = make(*THINK, opening=opening)
  for response in ('So 2 + 3 = 5.', '#### 5', '<think>4</think>5'):
    assert (seen(exp, response).right, seen(exp, response).stated) == (True, '5'), response
  assert seen(exp, '<think>\nSo it is \\boxed{5}').stated == ''
  assert exp.task.solution(exp.task.problem('test', 1), np.random.default_rng(0)).endswith('#### 5')


@pytest.mark.parametrize('instruction', ['Think inside <think> tags.', 'Begin with <think>', ' <think> first, then answer.\n'])
def test_words_of_the_user_open_no_thought(rows, tmp_path, instruction):
  path = with_tokens(tmp_path, special=False)
  for kind, opened in (('chat', False), ('r1', True)):
    task = Math(path, 'gsm8k', eval_path=rows, instruction=instruction, prompt=kind)
    assert task.problem('test', 1).prompt.endswith('<think>\n' if opened else TURN)
    assert task.stated_answer('So it is 5') == ('' if opened else '5')


@pytest.mark.parametrize(
  ('opening', 'tags', 'answered'),
  [
    ('', ('<think>\n',), False),
    ('', ('<think>', '<think>\nBriefly: '), False),
    ('', (' Be brief. ',), True),
    ('<think>\n', ('\n</think>\n\n',), True),
    ('<think>', ('</think>',), True),
    ('<think>\n', ('Briefly: ',), False),
    ('', ('<think>\n\n</think>\n\n',), True),
  ],
)
def test_a_tag_behind_the_prompt_opens_and_closes_thoughts_too(make, opening, tags, answered):
  exp = make(*THINK, opening=opening, rollout__tags=tags)
  found = seen(exp, 'So it is 5')
  assert (found.text, found.right, found.stated) == ('So it is 5', answered, '5' if answered else '')
  evaluated = answers(exp, ['So it is 5', '</think>5', '<think>5'])
  assert [answer.response for answer in evaluated] == ['So it is 5', '</think>5', '<think>5']
  assert [answer.correct for answer in evaluated] == [answered, True, False]
  assert [answer.answer for answer in evaluated] == ['5' if answered else '', '5', '']
  assert evaluated[0].prompt == exp.tagged([exp.task.problem('test', 1)])[0].prompt

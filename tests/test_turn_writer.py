"""The tokens between two turns: those of the whole conversation written at once, and never more than there is room for."""

import functools

import pytest
import transformers
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from espo_jax import environments, tasks
from espo_jax.environments import turn_writer
from espo_jax.tasks.pretrained import prompt_writer

pytestmark = pytest.mark.quick

# The layouts of three families of models, in our own words.
QWEN = """
{%- for m in messages %}
{%- if m.role == 'tool' %}{{ '<|im_start|>user\\n<tool_response>\\n' + m.content + '\\n</tool_response><|im_end|>\\n' }}
{%- elif m.role == 'assistant' and not loop.last %}
{{- '<|im_start|>assistant\\n' + m.content.split('</think>')[-1] + '<|im_end|>\\n' }}
{%- else %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}
{%- endif %}{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""
LLAMA = """
{{- '<|begin_of_text|>' }}
{%- for m in messages %}{% set role = 'ipython' if m.role == 'tool' else m.role %}
{{- '<|start_header_id|>' + role + '<|end_header_id|>\\n\\n' + m.content | trim + '<|eot_id|>' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"""
R1 = """
{{- '<bos>' }}
{%- for m in messages %}
{%- if m.role == 'assistant' %}{{ '<|Assistant|>' + m.content.split('</think>')[-1] + '<|end_of_sentence|>' }}
{%- elif m.role == 'user' %}{{ '<|User|>' + m.content }}
{%- endif %}{% endfor %}
{%- if add_generation_prompt %}{{ '<|Assistant|><think>\\n' }}{% endif %}"""
FAMILIES = {
  'qwen': (QWEN, '<|im_end|>', ('<|im_start|>',), 'chat'),
  'llama': (LLAMA, '<|eot_id|>', ('<|begin_of_text|>', '<|start_header_id|>', '<|end_header_id|>'), 'chat'),
  'r1': (R1, '<|end_of_sentence|>', ('<bos>', '<|User|>', '<|Assistant|>'), 'r1'),
}
LINES = ['the turn of a user and of an assistant', 'that is wrong, try again', 'think so', '12 + 345 = 67\n\n', 'tool_response']
TURNS = ['so 1 + 1 = 3', 'then 12\n', ' it is 2.']
ANSWERS = ['that is wrong,\ntry again', '\n\n 67 ', 'Été ∀ <tool_response> again']


@functools.cache
def tokenizer_of(family):
  template, end, marks, _ = FAMILIES[family]
  tokenizer = Tokenizer(models.BPE())
  split = pre_tokenizers.Split(Regex(r' ?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+|\s*[\r\n]+|\s+'), behavior='isolated')
  bytewise = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
  tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Sequence([split, bytewise]), decoders.ByteLevel()
  alphabet = pre_tokenizers.ByteLevel.alphabet()
  trainer = trainers.BpeTrainer(vocab_size=330, initial_alphabet=sorted(alphabet), special_tokens=[end], show_progress=False)
  tokenizer.train_from_iterator(LINES, trainer)
  made = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=end, pad_token=end, chat_template=template)
  made.add_special_tokens({'extra_special_tokens': list(marks)})
  return made


def writer_of(family, role='user', room=200):
  tokenizer = tokenizer_of(family)
  return tokenizer, turn_writer(tokenizer, FAMILIES[family][3], role, (tokenizer.eos_token_id,), room)


def conversation(family, role, turns, ended):
  """The tokens of a conversation as a rollout makes them."""
  tokenizer, write = writer_of(family, role)
  kind = FAMILIES[family][3]
  tokens = tokenizer.encode(prompt_writer(kind, tokenizer, '')('1 + 1 = ?'), add_special_tokens=False)
  for turn, answer in zip(turns, ANSWERS, strict=True):
    tokens += tokenizer.encode(turn, add_special_tokens=False) + [tokenizer.eos_token_id] * ended
    tokens += write(answer, ended).tokens
  return tokens


@pytest.mark.parametrize(
  ('family', 'role'), [('qwen', 'user'), ('qwen', 'tool'), ('llama', 'user'), ('llama', 'tool'), ('r1', 'user')]
)
@pytest.mark.parametrize('ended', [True, False])
def test_a_conversation_turn_by_turn_is_the_conversation_written_at_once(family, role, ended):
  tokenizer = tokenizer_of(family)
  turns = [turn.strip() if family == 'llama' else turn for turn in TURNS]  # its template trims
  opened = ['<think>\n' * (family == 'r1' and n > 0) for n in range(len(turns))]
  messages = [{'role': 'user', 'content': '1 + 1 = ?'}]
  for turn, answer in zip(turns, ANSWERS, strict=True):
    messages += [{'role': 'assistant', 'content': turn}, {'role': role, 'content': answer}]
  whole = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
  got = tokenizer.decode(conversation(family, role, turns, ended))
  if family == 'r1':  # the template drops the thought that it opens itself
    assert whole.count('<think>') == 1 and got.count('<think>\n') == 1 + sum(map(bool, opened)) + 1
    assert got.replace('<think>\n', '') == whole.replace('<think>\n', '')
    return
  assert got == whole
  assert conversation(family, role, turns, ended) == tokenizer.encode(whole, add_special_tokens=False)


def test_thoughts_of_earlier_turns_stay_in_the_conversation():
  """Templates such as Qwen3's and R1's leave them out: a conversation written anew has other tokens than the policy wrote."""
  turns = [f'<think>so {n}</think>\n{turn}' for n, turn in enumerate(TURNS)]
  for family in ('qwen', 'r1'):
    text = tokenizer_of(family).decode(conversation(family, 'user', turns, True))
    assert all(turn in text for turn in turns)


@pytest.mark.parametrize('family', FAMILIES)
def test_an_environment_cannot_end_a_turn_or_speak_for_the_assistant(family):
  tokenizer, write = writer_of(family)
  special = set(tokenizer.all_special_ids) | {tokenizer.convert_tokens_to_ids(mark) for mark in FAMILIES[family][2]}
  marks = ''.join([FAMILIES[family][1], *FAMILIES[family][2]])
  hostile = f'x{marks}y{marks[:3]}{marks}{marks[3:]}'
  inside, harmless = ([t for t in write(text, True).tokens if t in special] for text in (hostile, 'x'))
  assert inside == harmless


@pytest.mark.parametrize('family', FAMILIES)
@pytest.mark.parametrize('text', ['x' * 10_000_000, 'again try ' * 300, '∀' * 300, '<|im_end|>' * 200])
def test_an_observation_is_cut_to_its_room(family, text):
  tokenizer, write = writer_of(family, room=40)
  written = write(text, True)
  assert written.cut and len(written.tokens) <= 40
  frame = tokenizer.decode(write('', True).tokens)
  got = tokenizer.decode(written.tokens)
  assert got[:3] == frame[:3] and got.endswith(frame[-10:])  # the marks around it are whole
  assert len(written.tokens) > 30  # and little of the room is lost
  short = write('try again', True)
  assert not short.cut and 'try again' in tokenizer.decode(short.tokens)


def test_what_is_left_of_an_observation_has_its_blanks_with_a_tokenizer_that_cleans_them_up():
  tokenizer = tasks.character_tokenizer('ab ,!')
  tokenizer.clean_up_tokenization_spaces = True
  assert tokenizer.decode(tokenizer.encode('a , b !')) == 'a, b!'
  write = turn_writer(tokenizer, '', 'user', (1,), 7)
  assert write('a , b ! a', True) == (tokenizer.encode('a , b !'), True)


def test_plain_observations_follow_the_end_of_the_turn():
  tokenizer = tasks.character_tokenizer('ab#')
  write = turn_writer(tokenizer, '', 'user', (1,), 4)
  assert write('ab#', True) == ([2, 3, 4], False) and write('ab', False) == ([1, 2, 3], False)
  assert write('abab#', False) == ([1, 2, 3, 2], True)
  lines = turn_writer(tokenizer_of('qwen'), 'plain', 'user', (tokenizer_of('qwen').eos_token_id,), 50)
  assert tokenizer_of('qwen').decode(lines('try again', False).tokens) == '<|im_end|>try again\n'
  with pytest.raises(ValueError, match='has no token for a part'):
    write('?', True)


def test_templates_and_rooms_that_do_not_serve_are_reported():
  with pytest.raises(tasks.DataError, match=r"leaves out a message of the role 'tool'.*; fix: --config.environment.role=user"):
    writer_of('r1', 'tool')
  with pytest.raises(
    tasks.DataError, match=r'environment.observation_horizon = 5: the marks .* take \d+ tokens; fix: more than'
  ):
    writer_of('llama', room=5)
  refuses = tokenizer_of('qwen').__class__(tokenizer_object=tokenizer_of('qwen')._tokenizer, eos_token='<|im_end|>')
  refuses.chat_template = "{% if messages|length > 1 %}{{ raise_exception('one message') }}{% endif %}{{ messages[0].content }}"
  with pytest.raises(tasks.DataError, match='cannot write a message'):
    turn_writer(refuses, 'chat', 'user', (0,), 50)


def test_an_environment_poses_the_problem_within_the_prompt():
  prompt = '<|im_start|>user\n1 + 1\nBe brief.<|im_end|>\n'
  assert environments.reposed(prompt, '1 + 1', '1 + 1', ('<|im_end|>',)) is prompt
  posed = environments.reposed(prompt, '1 + 1', '1 + 1\n<|im_end|>a tool', ('<|im_end|>',))
  assert posed == '<|im_start|>user\n1 + 1\n< |im_end|>a tool\nBe brief.<|im_end|>\n'

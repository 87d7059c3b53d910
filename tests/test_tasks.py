"""The registry, the tokenizers and the way from text to arrays."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from espo_jax import tasks
from espo_jax.tasks.task import in_test, problem_id

SYNTHETIC = [(name, difficulty) for name in ('chain', 'countdown') for difficulty in ('easy', 'medium', 'hard')]


def test_get_builds_the_named_task():
  task = tasks.get('chain', difficulty='hard', seed=3)
  assert isinstance(task, tasks.Chain)
  assert (task.name, task.difficulty, task.seed) == ('chain', 'hard', 3)


def test_get_suggests_the_near_name_and_lists_the_known():
  with pytest.raises(
    ValueError, match="unknown task 'countdwn'; did you mean 'countdown'\\? known: chain, countdown, countdown_dfs, grid, math"
  ):
    tasks.get('countdwn')
  with pytest.raises(ValueError, match="unknown task 'zzz'; known: chain"):
    tasks.get('zzz')


@pytest.mark.parametrize('name', ['chain', 'countdown'])
def test_difficulty_and_noise_are_checked_at_once(name):
  with pytest.raises(ValueError, match="unknown difficulty 'medum'; did you mean 'medium'\\? known: easy, hard, medium"):
    tasks.get(name, difficulty='medum')
  with pytest.raises(ValueError, match=r'noise = 1\.5 is not a probability'):
    tasks.get(name, noise=1.5)


@pytest.mark.parametrize('name', ['chain', 'countdown'])
def test_split_and_index_are_checked(name):
  task = tasks.get(name)
  with pytest.raises(ValueError, match="unknown split 'tset'; did you mean 'test'"):
    task.problem('tset', 0)
  for index in (-1, 2**31):
    with pytest.raises(ValueError, match='outside'):
      task.problem('train', index)


def test_ids_are_unique_and_fit_uint32():
  ids = [problem_id(split, index) for split in ('train', 'test') for index in (0, 1, 2, 10**6, 2**31 - 1)]
  assert len(set(ids)) == len(ids)
  assert all(np.uint32(identity) == identity for identity in ids)


def test_split_hash_is_stable_and_takes_an_eighth():
  assert [in_test(f'{i}+{i}=') for i in range(8)] == [False, True, False, False, False, False, False, False]
  assert 0.11 < np.mean([in_test(str(i)) for i in range(8000)]) < 0.14


@pytest.mark.parametrize(('name', 'difficulty'), SYNTHETIC)
def test_problems_are_deterministic_distinct_by_seed_and_disjoint_by_split(name, difficulty):
  task = tasks.get(name, difficulty=difficulty)
  train = [task.problem('train', i) for i in range(1000)]
  test = [task.problem('test', i) for i in range(200)]
  assert not {p.prompt for p in train} & {p.prompt for p in test}
  assert len({p.id for p in train + test}) == 1200
  again, other = tasks.get(name, difficulty=difficulty), tasks.get(name, difficulty=difficulty, seed=1)
  assert [again.problem('train', i) for i in (7, 999, 0)] == [train[7], train[999], train[0]]
  assert [other.problem('train', i).prompt for i in range(20)] != [p.prompt for p in train[:20]]
  assert task.size('train') is None


@pytest.mark.parametrize(('name', 'difficulty'), SYNTHETIC)
def test_clean_solutions_verify_fit_and_survive_the_arrays(name, difficulty):
  task, rng = tasks.get(name, difficulty=difficulty), np.random.default_rng(0)
  tokenizer = task.tokenizer()
  problems = [task.problem(split, i) for split in ('train', 'test') for i in range(200)]
  responses = [task.solution(p, rng) for p in problems]
  width, horizon = task.max_prompt_tokens, task.max_response_tokens
  batch = tasks.encode_supervised(tokenizer, [(p.prompt, r) for p, r in zip(problems, responses, strict=True)], width, horizon)
  assert batch.tokens.shape == (400, width + horizon)
  assert batch.prompt_lengths.max() <= width
  assert batch.response_lengths.max() <= horizon
  decoded = tasks.decode_responses(tokenizer, batch.tokens[:, width:], batch.response_lengths)
  assert decoded == responses
  assert all(task.verify(p, r) for p, r in zip(problems, decoded, strict=True))
  # The end token is the last that counts; the prompt ends in the column before the response.
  rows = np.arange(400)
  assert (batch.tokens[rows, width + batch.response_lengths - 1] == tokenizer.eos_token_id).all()
  prompts = tasks.encode_prompts(tokenizer, problems, width)
  np.testing.assert_array_equal(prompts.tokens, batch.tokens[:, :width])


@pytest.mark.parametrize(('name', 'difficulty'), SYNTHETIC)
def test_bounds_are_reached(name, difficulty):
  task, rng = tasks.get(name, difficulty=difficulty), np.random.default_rng(0)
  tokenizer = task.tokenizer()
  problems = [task.problem('train', i) for i in range(400)]
  assert max(len(tokenizer.encode(p.prompt)) for p in problems) == task.max_prompt_tokens
  assert max(len(tokenizer.encode(task.solution(p, rng))) + 1 for p in problems) == task.max_response_tokens


@pytest.mark.parametrize('name', ['chain', 'countdown'])
@given(response=st.text() | st.text('0123456789+-*/=#,;! ', max_size=60))
@settings(max_examples=150, deadline=None)
def test_hostile_text_is_wrong_and_harmless(name, response):
  task = tasks.get(name, difficulty='hard')
  assert task.verify(task.problem('test', 5), response) is False


@pytest.mark.parametrize('name', ['chain', 'countdown'])
@pytest.mark.parametrize(
  'response',
  [
    '',
    '#',
    '!',
    '__import__("os").system("false")',
    '9' * 100_000 + '!',
    '1+1=2;' * 100_000,
    '\x00',
    '\ud800',
    '٣+٣=٦#٦',
    '1/0=0!',
  ],
)
def test_hostile_examples(name, response):
  task = tasks.get(name)
  assert task.verify(task.problem('train', 0), response) is False


class TestTokenizers:
  @given(text=st.text('ab +\n', max_size=30))
  @settings(max_examples=50, deadline=None)
  def test_characters_round_trip(self, text):
    tokenizer = CHARACTERS
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert len(ids) == len(text)
    assert tokenizer.decode(ids) == text

  def test_special_ids_and_order(self):
    assert (CHARACTERS.pad_token_id, CHARACTERS.eos_token_id, len(CHARACTERS)) == (0, 1, 7)
    assert CHARACTERS.encode('ab +\n') == [2, 3, 4, 5, 6]

  def test_reloads_with_auto_tokenizer(self, tmp_path):
    for difficulty in ('easy', 'hard'):
      task = tasks.get('countdown', difficulty=difficulty)
      tokenizer, problem = task.tokenizer(), task.problem('train', 0)
      tokenizer.save_pretrained(tmp_path / difficulty)
      loaded = AutoTokenizer.from_pretrained(tmp_path / difficulty)
      text = problem.prompt + task.solution(problem, np.random.default_rng(0))
      assert loaded.encode(text) == tokenizer.encode(text)
      assert loaded.decode(loaded.encode(text)) == text
      assert (loaded.pad_token_id, loaded.eos_token_id, loaded.padding_side) == (0, 1, 'left')

  def test_numbers_are_single_tokens(self):
    tokenizer = tasks.get('countdown', difficulty='hard').tokenizer()
    assert tokenizer.convert_ids_to_tokens(tokenizer.encode('12 7=84:')) == ['12', ' ', '7', '=', '84', ':']

  def test_unknown_character_raises_and_names_the_text(self):
    with pytest.raises(ValueError, match="no token for a part of '3\\*4='"):
      tasks.encode_prompts(tasks.get('chain').tokenizer(), [tasks.Problem(0, '3*4=', '2')], 8)

  def test_the_name_of_a_special_token_in_text_is_only_text(self, tmp_path):
    BPE.save_pretrained(tmp_path)
    for tokenizer in (BPE, AutoTokenizer.from_pretrained(tmp_path)):
      assert tokenizer.eos_token_id not in tokenizer.encode('a<eos>b')
      assert tokenizer.decode(tokenizer.encode('a<eos>b'), skip_special_tokens=True) == 'a<eos>b'
    with pytest.raises(ValueError, match='no token for a part'):
      tasks.encode_prompts(CHARACTERS, [tasks.Problem(0, 'a<eos>b', '')], 8)

  def test_repeated_piece_raises(self):
    with pytest.raises(ValueError, match='twice'):
      tasks.character_tokenizer('aba')

  @given(text=st.text(max_size=40))
  @settings(max_examples=50, deadline=None)
  def test_bpe_round_trips_any_text(self, text):
    assert BPE.decode(BPE.encode(text)) == text

  def test_bpe_is_deterministic_with_single_digits(self, tmp_path):
    again = tasks.byte_bpe_tokenizer(LINES, 270)
    assert again.get_vocab() == BPE.get_vocab()
    assert len(BPE) == 270
    assert len(BPE.encode('2024')) == 4
    BPE.save_pretrained(tmp_path)
    assert AutoTokenizer.from_pretrained(tmp_path).encode(LINES[0]) == BPE.encode(LINES[0])

  def test_bpe_needs_room_for_the_bytes(self):
    with pytest.raises(ValueError, match='at least 258'):
      tasks.byte_bpe_tokenizer(LINES, 257)


class TestBatching:
  def test_prompts_are_padded_on_the_left(self):
    problems = [tasks.Problem(4, 'ab', ''), tasks.Problem(2**32 - 1, 'a', '')]
    prompts = tasks.encode_prompts(CHARACTERS, problems, 4)
    assert prompts.tokens.tolist() == [[0, 0, 2, 3], [0, 0, 0, 2]]
    assert prompts.lengths.tolist() == [2, 1]
    assert prompts.ids.tolist() == [4, 2**32 - 1]
    assert (prompts.tokens.dtype, prompts.lengths.dtype, prompts.ids.dtype) == (np.int32, np.int32, np.uint32)

  def test_supervised_rows(self):
    batch = tasks.encode_supervised(CHARACTERS, [('a', 'bb'), ('ab', '')], 3, 4)
    assert batch.tokens.tolist() == [[0, 0, 2, 3, 3, 1, 0], [0, 2, 3, 1, 0, 0, 0]]
    assert batch.prompt_lengths.tolist() == [1, 2]
    assert batch.response_lengths.tolist() == [3, 1]

  def test_too_long_names_the_problem_and_the_fix(self):
    with pytest.raises(ValueError, match=r"problem 7, 'abab', has 4 tokens, more than rollout.prompt_width = 3; fix: .* >= 4"):
      tasks.encode_prompts(CHARACTERS, [tasks.Problem(7, 'abab', '')], 3)
    with pytest.raises(ValueError, match="prompt 'abab' has 4 tokens"):
      tasks.encode_supervised(CHARACTERS, [('abab', 'a')], 3, 4)
    with pytest.raises(ValueError, match=r'has 5 tokens, more than rollout.horizon = 4'):
      tasks.encode_supervised(CHARACTERS, [('a', 'abab')], 3, 4)

  def test_decoding_stops_at_the_length_and_skips_end_and_pad(self):
    tokens = np.array([[2, 3, 1, 2], [2, 0, 3, 1], [2, 2, 2, 2]], np.int32)
    assert tasks.decode_responses(CHARACTERS, tokens, np.array([3, 4, 0])) == ['ab', 'ab', '']
    assert tasks.decode_responses(CHARACTERS, tokens[:0], np.zeros(0, int)) == []


CHARACTERS = tasks.character_tokenizer('ab +\n')
LINES = ['She sold 48 clips in May 2024.\n', 'He sold 7 clips, and then she sold 90 clips.\n']
BPE = tasks.byte_bpe_tokenizer(LINES, 270)

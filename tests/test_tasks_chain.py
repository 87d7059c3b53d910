"""Chain arithmetic against Python's own arithmetic."""

import itertools
import re

import numpy as np
import pytest

from espo_jax.tasks import Chain, Problem

DIFFICULTIES = ['easy', 'medium', 'hard']


def steps_of(response: str) -> list[tuple[str, int]]:
  """The written (term, result) pairs."""
  return [(term, int(result)) for term, result in re.findall(r'([+-]\d+)=(\d+)', response)]


def test_written_example():
  problem = Problem(0, '3a+4b-7c+5=', '5')
  assert Chain().solution(problem, np.random.default_rng(0)) == 'a+4=7b-7=0c+5=5#5'
  assert Chain().verify(problem, 'a+4=7b-7=0c+5=5#5')
  hard = Problem(0, '07a+95b-03=', '99')
  assert Chain('hard').solution(hard, np.random.default_rng(0)) == 'a+95=02b-03=99#99'


@pytest.mark.parametrize('difficulty', DIFFICULTIES)
def test_steps_and_answers_are_those_of_python(difficulty):
  task = Chain(difficulty)
  for index in range(200):
    problem = task.problem('train', index)
    response = task.solution(problem, np.random.default_rng(0))
    expression = problem.prompt.removesuffix('=')
    terms = re.findall(r'[+-]?\d+', expression)
    assert [term for term, _ in steps_of(response)] == terms[1:]
    for count, (_, result) in enumerate(steps_of(response), start=2):
      plain = ''.join(re.sub(r'(?<!\d)0+(?=\d)', '', term) for term in terms[:count])
      assert eval(plain) % task.modulus == result  # a string this test made of digits and signs
    assert int(problem.answer) == result == int(response.rpartition('#')[2])


@pytest.mark.parametrize(('difficulty', 'low', 'high'), [('easy', 4, 12), ('medium', 8, 24), ('hard', 4, 16)])
def test_operations_are_uniform_over_the_range(difficulty, low, high):
  task = Chain(difficulty)
  counts = np.bincount([len(re.findall('[+-]', task.problem('train', i).prompt)) for i in range(3000)])
  expected = 3000 / (high - low + 1)
  assert counts[:low].sum() == 0
  assert len(counts) == high + 1
  np.testing.assert_allclose(counts[low:], expected, atol=5 * expected**0.5)


def test_overrides_replace_the_difficulty():
  task = Chain('medium', min_ops=2, max_ops=3)
  assert {len(re.findall('[+-]', task.problem('test', i).prompt)) for i in range(50)} == {2, 3}
  assert (task.max_prompt_tokens, task.max_response_tokens) == (11, 18)
  with pytest.raises(ValueError, match='min_ops = 8, max_ops = 3'):
    Chain('medium', max_ops=3)
  with pytest.raises(ValueError, match='1 <= min_ops'):
    Chain(min_ops=0)
  with pytest.raises(ValueError, match='min_ops <= max_ops <= 388, one letter an operation'):
    Chain(max_ops=389)


def test_chains_of_a_thousand_tokens_are_written_and_verified():
  task = Chain('medium', min_ops=200, max_ops=200)
  assert (task.max_prompt_tokens, task.max_response_tokens) == (602, 1003)
  problem = task.problem('train', 3)
  response = task.solution(problem, np.random.default_rng(0))
  tokenizer = task.tokenizer()
  assert tokenizer.decode(tokenizer.encode(response)) == response
  assert len(tokenizer.encode(response)) == 1002 and len(tokenizer.encode(problem.prompt)) == 602
  assert task.verify(problem, response)
  for place in range(0, 1002, 7):  # a result or another character of each step in turn
    wrong = '1' if response[place] != '1' else '2'
    assert not task.verify(problem, response[:place] + wrong + response[place + 1 :])


@pytest.mark.parametrize('difficulty', DIFFICULTIES)
def test_any_corrupted_character_dooms_the_answer(difficulty):
  task = Chain(difficulty)
  for index in range(5):
    problem = task.problem('train', index)
    response = task.solution(problem, np.random.default_rng(0))
    for place, character in enumerate(response):
      for wrong in '0123456789+-=#abz':
        if wrong != character:
          assert not task.verify(problem, response[:place] + wrong + response[place + 1 :])
      assert not task.verify(problem, response[:place] + response[place + 1 :])
    assert not task.verify(problem, response + response[-1])
    assert not task.verify(problem, response + '\n')
    assert not task.verify(problem, '#' + problem.answer)  # the right answer without its steps


def test_two_slips_that_cancel_are_still_wrong():
  assert not Chain().verify(Problem(0, '3a+4b-7c+5=', '5'), 'a+4=8b-7=0c+5=5#5')


@pytest.mark.parametrize('difficulty', ['easy', 'hard'])
def test_noise_has_its_rate_is_uniform_and_stays_consistent(difficulty):
  task, rng = Chain(difficulty, noise=0.1), np.random.default_rng(0)
  offsets, right, total = [], [], 0
  for index in range(2000):
    problem = task.problem('train', index)
    response = task.solution(problem, rng)
    value, slips = int(re.match(r'\d+', problem.prompt)[0]), 0
    for term, result in steps_of(response):
      offset = (result - value - int(term)) % task.modulus
      slips += offset > 0
      offsets += [offset] * (offset > 0)
      value, total = result, total + 1
    assert int(response.rpartition('#')[2]) == value
    assert task.verify(problem, response) == (slips == 0)
    right.append(slips == 0)
  assert abs(len(offsets) / total - 0.1) < 5 * (0.09 / total) ** 0.5
  counts = np.bincount(offsets, minlength=task.modulus)[1:]
  np.testing.assert_allclose(counts, counts.mean(), atol=5 * counts.mean() ** 0.5)
  assert 0.2 < np.mean(right) < 0.7


@pytest.mark.parametrize(('difficulty', 'noise'), [('easy', 0.0), ('easy', 0.1), ('hard', 0.0)])
def test_a_habit_has_its_rate_where_sums_leave_the_range_and_none_elsewhere(difficulty, noise):
  task, rng = Chain(difficulty, habit=0.6, noise=noise), np.random.default_rng(0)
  inside, outside = [], []
  for index in range(2000):
    problem = task.problem('train', index)
    response = task.solution(problem, rng)
    value, wrong = int(re.match(r'\d+', problem.prompt)[0]), False
    for term, result in steps_of(response):
      total = value + int(term)
      (inside if 0 <= total < task.modulus else outside).append((result - total) % task.modulus)
      wrong |= (result - total) % task.modulus > 0
      value = result
    assert task.verify(problem, response) == (not wrong)
  by_noise = (1 - 0.6) * noise / (task.modulus - 1)  # a random result is one too large by chance
  for offsets, one_too_large, right in (
    (outside, 0.6 + by_noise, (1 - 0.6) * (1 - noise)),
    (inside, noise / (task.modulus - 1), 1 - noise),
  ):
    spread = 5 * (0.25 / len(offsets)) ** 0.5
    assert abs(np.mean(np.array(offsets) == 1) - one_too_large) < spread
    assert abs(np.mean(np.array(offsets) == 0) - right) < spread


def test_noise_leaves_problems_alone_and_follows_the_generator():
  noisy, clean = Chain(noise=0.3), Chain()
  problem = clean.problem('train', 1)
  assert noisy.problem('train', 1) == problem
  first, again, other = (noisy.solution(problem, np.random.default_rng(seed)) for seed in (0, 0, 1))
  assert first == again != other


def test_steps_are_rechecked_with_their_rate_and_rechecking_is_right():
  task, rng = Chain(rechecks=2, recheck_rate=0.6), np.random.default_rng(0)
  written = []
  for index in range(500):
    problem = task.problem('train', index)
    response = task.solution(problem, rng)
    steps = [step for step, _ in itertools.groupby(re.findall('[a-z][^a-z#]*', response))]
    written += [len(list(group)) for _, group in itertools.groupby(re.findall('[a-z][^a-z#]*', response))]
    assert ''.join(steps) + '#' + problem.answer == Chain().solution(problem, rng)
    assert task.verify(problem, response)
    assert len(response) < task.max_response_tokens
  shares = np.bincount(written, minlength=4)[1:] / len(written)
  np.testing.assert_allclose(shares, [0.4, 0.6 * 0.4, 0.6 * 0.6], atol=5 * (0.25 / len(written)) ** 0.5)
  problem = Problem(0, '3a+4b-7=', '0')
  assert task.verify(problem, 'a+4=7a+4=7a+4=7b-7=0#0')
  assert not task.verify(problem, 'a+4=7a+4=7a+4=7a+4=7b-7=0#0')  # once too often
  assert not task.verify(problem, 'a+4=7b-7=0a+4=7#0')
  assert not task.verify(problem, 'a+4=6a+4=7b-7=0#0')  # no step is taken back
  assert not task.verify(problem, 'b-7=0#0')
  assert not Chain().verify(problem, 'a+4=7a+4=7b-7=0#0')
  with pytest.raises(ValueError, match='rechecks = -1'):
    Chain(rechecks=-1)
  with pytest.raises(ValueError, match='recheck_rate = 2'):
    Chain(recheck_rate=2.0)

"""Countdown against a brute-force search and a second verifier."""

import itertools
import re
from collections import Counter

import numpy as np
import pytest

from espo_jax.tasks import Countdown, Problem
from espo_jax.tasks.countdown import combine, reachable

DIFFICULTIES = ['easy', 'medium', 'hard']
PROBLEM = Problem(0, '3 7 2=17:', '17')


def compute(left: int, operator: str, right: int) -> float:
  return {'+': left + right, '-': left - right, '*': left * right, '/': left / right if right else -1}[operator]


def ends(numbers: tuple[int, ...], operators: str, max_value: int) -> set[int]:
  """Every value that a complete attempt can end on, in the plainest way."""
  if len(numbers) == 1:
    return set(numbers)
  found = set()
  for left, right, *rest in itertools.permutations(numbers):
    for operator in operators:
      value = compute(left, operator, right)
      if value == int(value) and 0 <= value <= max_value:
        found |= ends((int(value), *rest), operators, max_value)
  return found


def judge(task: Countdown, problem: Problem, attempt: str) -> bool:
  """A second verifier, for one attempt that is known to be made of steps."""
  numbers, target = problem.prompt.rstrip(':').split('=')
  hand = Counter(map(int, numbers.split()))
  for step in attempt.split(','):
    left, operator, right, result = re.fullmatch(r'(\d+)(\D)(\d+)=(\d+)', step).groups()
    used = Counter([int(left), int(right)])
    if not used <= hand or operator not in task.settings.operators:
      return False
    if compute(int(left), operator, int(right)) != int(result) or not 0 <= int(result) <= task.settings.max_value:
      return False
    hand = hand - used + Counter([int(result)])
  return hand == Counter([int(target)])


def read(problem: Problem) -> tuple[list[int], int]:
  numbers, target = problem.prompt.rstrip(':').split('=')
  return [int(number) for number in numbers.split()], int(target)


@pytest.mark.parametrize('difficulty', DIFFICULTIES)
def test_reachable_values_are_those_of_brute_force(difficulty):
  task = Countdown(difficulty)
  for index in range(10):
    numbers, target = read(task.problem('train', index))
    bits = reachable(tuple(sorted(numbers)), task.settings.operators, task.settings.max_value)
    expected = ends(tuple(numbers), task.settings.operators, task.settings.max_value)
    assert {value for value in range(bits.bit_length()) if bits >> value & 1} == expected
    assert target in expected


@pytest.mark.parametrize('difficulty', DIFFICULTIES)
def test_problems_follow_the_difficulty(difficulty):
  task = Countdown(difficulty)
  for index in range(300):
    numbers, target = read(task.problem('test', index))
    assert len(numbers) == task.settings.numbers
    assert all(1 <= number <= task.settings.largest for number in numbers)
    assert 0 < target <= task.settings.max_value
    assert target not in numbers


@pytest.mark.parametrize('difficulty', DIFFICULTIES)
def test_splits_differ_in_more_than_the_order_of_the_numbers(difficulty):
  task = Countdown(difficulty)

  def key(split: str, index: int) -> tuple[tuple[int, ...], int]:
    numbers, target = read(task.problem(split, index))
    return tuple(sorted(numbers)), target

  assert not {key('train', i) for i in range(3000)} & {key('test', i) for i in range(600)}


@pytest.mark.parametrize(
  ('response', 'right'),
  [
    ('7*2=14,14+3=17!', True),
    ('7*2=14,3+14=17!', True),
    ('2*7=14,14+3=17!', True),
    ('3+2=5,7*5=35;7*2=14,14+3=17!', True),
    ('9*9=1;7*2=14,14+3=17!', True),  # a failed attempt need only be written as steps
    ('7*2=14,14+3=17;', False),
    ('7*2=14,14+3=17', False),
    ('7*2=14,14+3=17!!', False),
    ('7*2=14,14+3=17!7*2=14,14+3=17!', False),
    ('3+2=5,7*5=35!7*2=14,14+3=17!', False),
    ('7*2=14,14+3=17!;', False),
    ('7*2=14,14+3=17! ', False),
    (';7*2=14,14+3=17!', False),
    ('7*2;7*2=14,14+3=17!', False),
    ('7*2=14!', False),  # a number is left
    ('14+3=17!', False),  # 14 was not given
    ('7+7=14,14+3=17!', False),  # 7 is there once
    ('7*2=15,14+3=17!', False),
    ('7*2=13,13+3=17!', False),
    ('7*2=14,14+3=17,17+0=17!', False),
    ('2-7=5,5*3=15!', False),
    ('07*2=14,14+3=17!', False),
    ('7*2=14,,14+3=17!', False),
    ('3/3=1,7*2=17!', False),
  ],
)
def test_written_examples(response, right):
  assert Countdown().verify(PROBLEM, response) is right


@pytest.mark.parametrize(
  ('left', 'operator', 'right', 'result'),
  [
    (6, '/', 3, 2),
    (7, '/', 3, None),
    (7, '/', 0, None),
    (0, '/', 7, 0),
    (3, '-', 7, None),
    (9, '*', 9, None),
    (3, '^', 2, None),
  ],
)
def test_rules_of_a_step(left, operator, right, result):
  assert combine(left, operator, right, 49) == result


def test_division_belongs_to_hard_only():
  problem, response = Problem(0, '8 4 3=6:', '6'), '8/4=2,2*3=6!'
  assert not Countdown('medium').verify(problem, response)
  assert Countdown('hard').verify(problem, response)


@pytest.mark.parametrize('difficulty', DIFFICULTIES)
def test_verifier_agrees_with_the_second_one_on_random_attempts(difficulty):
  task, rng = Countdown(difficulty), np.random.default_rng(0)
  verdicts = Counter()
  for index in range(300):
    problem = task.problem('train', index)
    right = task.solution(problem, rng).removesuffix('!').rpartition(';')[2]
    tokens = re.findall(r'\d+|.', right)
    for _ in range(6):
      mutant = list(tokens)
      for place in rng.integers(0, len(tokens), rng.integers(0, 3)):
        if tokens[place].isdigit():
          mutant[place] = str(rng.integers(0, 20))
        elif tokens[place] in '+-*/':
          mutant[place] = '+-*/'[rng.integers(4)]
        else:
          i, j = rng.choice([i for i, token in enumerate(tokens) if token.isdigit()], 2)
          mutant[i], mutant[j] = mutant[j], mutant[i]
      attempt = ''.join(mutant)
      verdict = task.verify(problem, attempt + '!')
      assert verdict == judge(task, problem, attempt), (problem, attempt)
      verdicts[verdict] += 1
  assert min(verdicts.values()) > 100


@pytest.mark.parametrize('difficulty', DIFFICULTIES)
def test_solutions_are_searches(difficulty):
  task, rng = Countdown(difficulty), np.random.default_rng(0)
  failures = Counter()
  for index in range(500):
    problem = task.problem('train', index)
    *failed, last = re.split('[;!]', task.solution(problem, rng).removesuffix('!'))
    assert judge(task, problem, last)
    assert len({*failed, last}) == len(failed) + 1
    for attempt in failed:  # clean, complete, and short of the target
      end = attempt.rpartition('=')[2]
      assert judge(task, problem._replace(prompt=f'{problem.prompt.split("=")[0]}={end}:'), attempt)
      assert end != problem.answer
    failures[len(failed)] += 1
  assert set(failures) == set(range(task.settings.max_attempts))
  assert max(failures.values()) < 0.4 * 500


def test_max_attempts_bounds_the_search():
  task, rng = Countdown('hard', max_attempts=1), np.random.default_rng(0)
  assert task.max_response_tokens == 19
  assert all(';' not in task.solution(task.problem('train', i), rng) for i in range(50))
  with pytest.raises(ValueError, match='at least 1'):
    Countdown(max_attempts=0)


def test_noise_has_its_rate_and_later_steps_use_the_wrong_value():
  task, rng = Countdown('medium', noise=0.2), np.random.default_rng(0)
  slips, right = [], []
  for index in range(1500):
    problem = task.problem('train', index)
    response = task.solution(problem, rng)
    right.append(task.verify(problem, response))
    *noisy, last = re.split('[;!]', response.removesuffix('!'))
    for attempt in noisy:
      hand = Counter(read(problem)[0])
      for step in attempt.split(','):
        left, operator, other, result = re.fullmatch(r'(\d+)(\D)(\d+)=(\d+)', step).groups()
        assert Counter([int(left), int(other)]) <= hand  # the values as written, slips and all
        assert 0 <= int(result) <= task.settings.max_value
        hand = hand - Counter([int(left), int(other)]) + Counter([int(result)])
        slips.append(compute(int(left), operator, int(other)) != int(result))
    assert last.rpartition('=')[2] == problem.answer  # a search that slipped on to the target believes in it
  # Failed attempts only, where a slip is a little more frequent than over all attempts.
  assert 0.18 < np.mean(slips) < 0.24
  assert 0.9 < np.mean(right) < 1


def test_solution_follows_the_generator():
  task = Countdown('hard', noise=0.1)
  problem = task.problem('train', 0)
  first, again, other = (task.solution(problem, np.random.default_rng(seed)) for seed in (0, 0, 1))
  assert first == again != other

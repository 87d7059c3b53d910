"""Countdown as a written search: attempts to reach a target with every given number used once.

The prompt `3 7 2=17:` asks for a response such as `3+2=5,7*5=35;7*2=14,14+3=17!`. An attempt combines two of the available
values until one is left. `;` marks a failed attempt, after which the search goes on. `!` marks an attempt that reached the
target, and ends the search. A policy that fails can therefore keep trying until the horizon. Each number is a single token, and
every value stays in 0 .. max_value.
"""

import functools
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from espo_jax.tasks.registered import register
from espo_jax.tasks.task import Problem, Task, check_probability, in_test, lookup, problem_id, problem_rng
from espo_jax.tasks.tokenizer import character_tokenizer

if TYPE_CHECKING:
  from transformers import PreTrainedTokenizerFast

State = tuple[int, ...]  # the available values, sorted

_NUMBER = '(0|[1-9][0-9]{0,3})'
STEP = f'{_NUMBER}([-+*/]){_NUMBER}={_NUMBER}'
_ATTEMPT = f'{STEP}(?:,{STEP})*'
_RESPONSE = re.compile(f'(?:{_ATTEMPT};)*(?P<last>{_ATTEMPT})!')


class CountdownSettings(NamedTuple):
  """The settings of a difficulty. Numbers are drawn from 1 .. largest. Every value stays in 0 .. max_value."""

  numbers: int
  largest: int
  max_value: int
  operators: str
  max_attempts: int


DIFFICULTIES = {
  'easy': CountdownSettings(numbers=3, largest=9, max_value=49, operators='+-*', max_attempts=8),
  'medium': CountdownSettings(numbers=3, largest=15, max_value=99, operators='+-*', max_attempts=8),
  'hard': CountdownSettings(numbers=4, largest=15, max_value=99, operators='+-*/', max_attempts=8),
}


class Move(NamedTuple):
  """One step that combines two values, and the available values after it."""

  left: int
  operator: str
  right: int
  result: int
  state: State


def combine(left: int, operator: str, right: int, max_value: int) -> int | None:
  """Returns the result of one step; None if the result is forbidden: negative, not a whole number, or above `max_value`."""
  match operator:
    case '+':
      result = left + right
    case '-':
      result = left - right
    case '*':
      result = left * right
    case '/' if right and left % right == 0:
      result = left // right
    case _:
      return None
  return result if 0 <= result <= max_value else None


@functools.lru_cache(maxsize=2**13)
def moves(state: State, operators: str, max_value: int) -> tuple[Move, ...]:
  """Returns every different step from `state`, the larger operand first.

  There is always a step, because the smaller value can be subtracted from the larger one.
  """
  found = {}
  for j, left in enumerate(state):
    for i, right in enumerate(state[:j]):
      if (left, right) in found:
        continue
      rest = state[:i] + state[i + 1 : j] + state[j + 1 :]
      steps = ((operator, combine(left, operator, right, max_value)) for operator in operators)
      found[left, right] = [
        Move(left, operator, right, result, tuple(sorted((*rest, result)))) for operator, result in steps if result is not None
      ]
  return tuple(move for group in found.values() for move in group)


@functools.lru_cache(maxsize=2**16)
def reachable(state: State, operators: str, max_value: int) -> int:
  """Returns the values on which a complete attempt from `state` can end, as a bit set, which is small enough to be cached."""
  if len(state) == 1:
    return 1 << state[0]
  bits = 0
  for move in moves(state, operators, max_value):
    bits |= reachable(move.state, operators, max_value)
  return bits


@register('countdown')
@dataclass(frozen=True)
class Countdown(Task):
  """Countdown with 3 (easy, medium) or 4 (hard) numbers; hard also divides, without remainder.

  The splits differ in the numbers and the target, not only in the order in which the numbers are listed.

  Attributes:
    difficulty: 'easy', 'medium' or 'hard'.
    seed: the seed of the problems.
    noise: the probability that a step of `solution` gets a uniformly drawn wrong result, which later steps use.
    max_attempts: the most attempts of a solution, in place of the difficulty's. A policy may make more.
  """

  difficulty: str = 'easy'
  seed: int = 0
  noise: float = 0.0
  max_attempts: int | None = None

  name = 'countdown'

  def __post_init__(self) -> None:
    """Checks the settings, so that a wrong one fails at once."""
    check_probability('noise', self.noise)
    if self.settings.max_attempts < 1:
      raise ValueError(f'max_attempts = {self.settings.max_attempts}; fix: at least 1')

  @functools.cached_property
  def settings(self) -> CountdownSettings:
    """The settings of the difficulty, with `max_attempts` replaced if it is given."""
    base = lookup('difficulty', self.difficulty, DIFFICULTIES)
    return base if self.max_attempts is None else base._replace(max_attempts=self.max_attempts)

  @property
  def max_prompt_tokens(self) -> int:
    """The length of every prompt: the numbers with spaces between them, `=`, the target and `:`."""
    return 2 * self.settings.numbers + 2

  @property
  def max_response_tokens(self) -> int:
    """The length of the longest solution: `max_attempts` attempts with six tokens per step, then the end token."""
    return 6 * (self.settings.numbers - 1) * self.settings.max_attempts + 1

  def problem(self, split: str, index: int) -> Problem:
    """Draws the problem at `index` of `split`. The target can be reached, and is neither 0 nor one of the numbers."""
    identity = problem_id(split, index)
    rng = problem_rng(self.seed, split, index)
    while True:
      numbers = rng.integers(1, self.settings.largest + 1, self.settings.numbers).tolist()
      state = tuple(sorted(numbers))
      bits = self._reachable(state)
      targets = [value for value in range(1, bits.bit_length()) if bits >> value & 1 and value not in state]
      if not targets:
        continue
      target = targets[rng.integers(len(targets))]
      if in_test(_write_prompt(state, target)) == (split == 'test'):
        return Problem(identity, _write_prompt(numbers, target), str(target))

  def solution(self, problem: Problem, rng: np.random.Generator) -> str:
    """Writes a search in random order without repeated attempts, until it reaches the target.

    The most attempts are drawn from 1 .. max_attempts. The last attempt reaches the target, and is right unless a slip of the
    noise led there.
    """
    numbers, target = read_prompt(problem.prompt)
    state = tuple(sorted(numbers))
    seen: set[str] = set()
    attempts: list[str] = []
    for _ in range(int(rng.integers(self.settings.max_attempts))):
      attempt, value = self._attempt(state, rng, self.noise)
      if attempt in seen:
        continue
      seen.add(attempt)
      if value == target:
        return ''.join(attempts) + attempt + '!'
      attempts.append(attempt + ';')
    return ''.join(attempts) + self._attempt(state, rng, goal=target)[0] + '!'

  def verify(self, problem: Problem, response: str) -> bool:
    """Returns whether the attempt on which the response ends (`stated_answer`) is right in every step.

    That attempt uses exactly the given numbers, each once, by the rules of the task, and ends on the target. Operands may come
    in either order. What was tried before only has to be written as steps. What it computes is not checked.
    """
    return self.solves(problem, self.stated_answer(response))

  def solves(self, problem: Problem, attempt: str) -> bool:
    """Returns whether the steps of a written attempt are right, use each given number once, and end on the target."""
    values, target = read_prompt(problem.prompt)
    for left, operator, right, result in re.findall(STEP, attempt):
      for operand in (int(left), int(right)):
        if operand not in values:
          return False
        values.remove(operand)
      if operator not in self.settings.operators:
        return False
      if combine(int(left), operator, int(right), self.settings.max_value) != int(result):
        return False
      values.append(int(result))
    return values == [target]

  def stated_answer(self, response: str) -> str:
    """Returns the attempt that ends the search, as it is written."""
    match = _RESPONSE.fullmatch(response)
    return match['last'] if match else ''

  def size(self, split: str) -> int | None:
    """Returns None, because problems are drawn without end. They can repeat."""
    return None

  def tokenizer(self) -> 'PreTrainedTokenizerFast':
    """Returns a tokenizer with one token per number from 0 to max_value and one per sign."""
    numbers = (str(value) for value in range(self.settings.max_value + 1))
    return character_tokenizer([*numbers, *' =:,;!', *self.settings.operators], pattern=r'\d+|.')

  def _reachable(self, state: State) -> int:
    return reachable(state, self.settings.operators, self.settings.max_value)

  def _attempt(self, state: State, rng: np.random.Generator, noise: float = 0.0, goal: int | None = None) -> tuple[str, int]:
    """Draws a complete attempt and returns it with its final value; with `goal` the attempt ends on the goal."""
    steps = []
    while len(state) > 1:
      options = moves(state, self.settings.operators, self.settings.max_value)
      if goal is not None:
        options = tuple(move for move in options if self._reachable(move.state) >> goal & 1)
      move = options[rng.integers(len(options))]
      result, state = move.result, move.state
      if noise and rng.random() < noise:
        rest = list(state)
        rest.remove(result)
        result = (result + int(rng.integers(1, self.settings.max_value + 1))) % (self.settings.max_value + 1)
        state = tuple(sorted((*rest, result)))
      steps.append(f'{move.left}{move.operator}{move.right}={result}')
    return ','.join(steps), state[0]


def _write_prompt(numbers: list[int] | State, target: int) -> str:
  return f'{" ".join(map(str, numbers))}={target}:'


def read_prompt(prompt: str) -> tuple[list[int], int]:
  """Returns the numbers and the target of a prompt."""
  numbers, target = prompt.rstrip(':').split('=')
  return [int(number) for number in numbers.split()], int(target)

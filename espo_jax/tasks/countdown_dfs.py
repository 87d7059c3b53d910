"""Countdown as a depth-first search with backtracking, in place of attempts that each begin anew.

The prompts are those of the task 'countdown'. The response `3+2=5,7*5=35;7-5=2;;7*2=14,14+3=17!` goes one step deeper with
each `,`. A `;` marks a dead end and takes back the last step. Each `;` that follows another one takes back one step more. `!`
ends the search on the target.

The direct solution, with which such traces are compared, is that of the task 'countdown' with `max_attempts = 1`.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from espo_jax.tasks.countdown import STEP, Countdown, Move, State, moves, read_prompt
from espo_jax.tasks.registered import register
from espo_jax.tasks.task import Problem

_PART = re.compile(f'(?P<step>{STEP})(?P<sign>[,;!])(?P<more>;*)')


@register('countdown_dfs')
@dataclass(frozen=True)
class CountdownDFS(Countdown):
  """Countdown, in which a response is a depth-first search. Equal difficulties and seeds give the problems of 'countdown'.

  Attributes:
    max_attempts: the most dead ends of a solution plus one, in place of the difficulty's. After so many dead ends the search
      goes straight to the target, so that a trace of four numbers fits the horizon [I]. A policy may make more.
  """

  name = 'countdown_dfs'

  def __post_init__(self) -> None:
    """Checks the settings, so that a wrong one fails at once."""
    super().__post_init__()
    if self.noise:
      raise ValueError(f'noise = {self.noise}: a search has no slips; fix: noise = 0.0, or the task countdown')

  @property
  def max_response_tokens(self) -> int:
    """A bound on the length of a solution.

    It is six tokens per step with its sign, one more for each inner step that is taken back, and the end token. A dead end adds
    at most as many steps as there are numbers less one. The sign behind an inner step is `,`, so that it is taken back by a
    sign of its own.
    """
    depth, attempts = self.settings.numbers - 1, self.settings.max_attempts
    return 6 * depth * attempts + (depth - 1) * (attempts - 1) + 1

  def solution(self, problem: Problem, rng: np.random.Generator) -> str:
    """Writes a depth-first search, which tries the steps of each state in random order, until it reaches the target.

    The most dead ends are drawn from 0 .. max_attempts - 1.
    """
    numbers, target = read_prompt(problem.prompt)
    allowed = int(rng.integers(self.settings.max_attempts))
    return ''.join(self._search(tuple(sorted(numbers)), target, allowed, rng))

  def stated_answer(self, response: str) -> str:
    """Returns the steps that are not taken back when the search ends, with `,` between them; '' if it does not end."""
    steps: list[str] = []
    place = 0
    while place < len(response):
      part = _PART.match(response, place)
      if part is None:
        return ''
      step, sign, more = part['step'], part['sign'], part['more']
      steps.append(step)
      place = part.end()
      if more and sign != ';':
        return ''
      if sign == '!':
        return ','.join(steps) if place == len(response) else ''
      back = len(more) + (sign == ';')
      if back > len(steps):
        return ''
      del steps[len(steps) - back :]
    return ''

  def _search(self, state: State, target: int, allowed: int, rng: np.random.Generator) -> Iterator[str]:
    """Yields the steps and signs of a search that meets at most `allowed` dead ends."""
    untried: list[list[Move]] = [self._shuffled(state, rng)]
    dead = 0
    while True:
      straight = dead >= allowed
      options = untried[-1]
      while straight and options and not self._reachable(options[-1].state) >> target & 1:
        options.pop()
      if not options:  # all steps from here were tried, or none leads to the target
        untried.pop()
        yield ';'
        continue
      move = options.pop()
      yield f'{move.left}{move.operator}{move.right}={move.result}'
      if len(move.state) > 1:
        untried.append(self._shuffled(move.state, rng))
        yield ','
      elif move.result == target:
        yield '!'
        return
      else:
        dead += 1
        yield ';'

  def _shuffled(self, state: State, rng: np.random.Generator) -> list[Move]:
    options = moves(state, self.settings.operators, self.settings.max_value)
    return [options[i] for i in rng.permutation(len(options))]

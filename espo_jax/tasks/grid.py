"""Navigation on a small map with walls, one character a token.

The prompt `..#/@#./..*=` is a map, row by row: `@` is the agent, `*` the goal, `#` a wall and `.` free. The response is a walk,
such as `SEE`, by the letters of the four directions. A step into a wall or off the map leaves the agent where it is. A walk is
right if it ends at the goal. The environment 'grid' lets the agent walk turn by turn, and shows the map after each turn.

`shortest` finds the walk of an expert.
"""

import collections
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from espo_jax.tasks.registered import register
from espo_jax.tasks.task import Problem, Task, in_test, problem_id, problem_rng
from espo_jax.tasks.tokenizer import character_tokenizer

if TYPE_CHECKING:
  from transformers import PreTrainedTokenizerFast

Place = tuple[int, int]  # row and column
MOVES: dict[str, Place] = {'N': (-1, 0), 'E': (0, 1), 'S': (1, 0), 'W': (0, -1)}
FREE, WALL, AGENT, GOAL, BREAK, SHOWN = '.', '#', '@', '*', '/', '='  # `BREAK` ends a row of a map, `SHOWN` a map
_ARRIVED = '+'  # the agent at the goal


@register('grid')
@dataclass(frozen=True)
class Grid(Task):
  """Maps of `side` by `side` places, each with a way to the goal.

  Attributes:
    side: the number of rows and columns.
    walls: the probability that a place is a wall.
    seed: the seed of the maps.
  """

  side: int = 4
  walls: float = 0.2
  seed: int = 0

  name = 'grid'

  def __post_init__(self) -> None:
    """Checks the settings, so that a wrong one fails at once."""
    if self.side < 2:
      raise ValueError(f'side = {self.side}; fix: at least 2, so that agent and goal have a place each')
    if not 0.0 <= self.walls <= 0.5:
      raise ValueError(f'walls = {self.walls}; fix: at most 0.5, because few maps with more walls have a way')

  @property
  def max_prompt_tokens(self) -> int:
    """The length of a map."""
    return self.side * (self.side + 1)

  @property
  def max_response_tokens(self) -> int:
    """The length of the longest walk that visits no place twice, with the end token."""
    return self.side * self.side

  def problem(self, split: str, index: int) -> Problem:
    """Draws the map at `index` of `split`, again and again until it has a way and its hash falls in the split."""
    identity, rng = problem_id(split, index), problem_rng(self.seed, split, index)
    while True:
      prompt = self._draw(rng) + SHOWN
      if in_test(prompt) == (split == 'test') and (way := shortest(prompt)) is not None:
        return Problem(identity, prompt, way)

  def solution(self, problem: Problem, rng: np.random.Generator) -> str:
    """Returns the expert's walk."""
    return problem.answer

  def verify(self, problem: Problem, response: str) -> bool:
    """Returns whether the response is a walk that ends at the goal."""
    walks = not set(response) - set(MOVES)
    return walks and walk(problem.prompt, response) == place_of(problem.prompt, GOAL)

  def stated_answer(self, response: str) -> str:
    """Returns the walk."""
    return response

  def size(self, split: str) -> int | None:
    """Returns None, because there is no end of maps."""
    return None

  def tokenizer(self) -> 'PreTrainedTokenizerFast':
    """Returns a tokenizer with one token per character."""
    return character_tokenizer(FREE + WALL + AGENT + GOAL + BREAK + SHOWN + _ARRIVED + ''.join(MOVES))

  def _draw(self, rng: np.random.Generator) -> str:
    places = np.where(rng.random((self.side, self.side)) < self.walls, WALL, FREE)
    agent, goal = rng.choice(self.side * self.side, 2, replace=False)
    places.flat[agent], places.flat[goal] = AGENT, GOAL
    return BREAK.join(''.join(row) for row in places)


def shortest(drawn: str) -> str | None:
  """Returns the shortest walk to the goal; among equally short ones the first in the order of `MOVES`. None if there is no way.

  Args:
    drawn: The map.
  """
  start, goal = place_of(drawn, AGENT), place_of(drawn, GOAL)
  rows, waiting, found = _rows(drawn), collections.deque([start]), {start: ''}
  while waiting:
    place = waiting.popleft()
    if place == goal:
      return found[place]
    for letter in MOVES:
      if (end := _moved(rows, place, letter)) not in found:
        found[end] = found[place] + letter
        waiting.append(end)
  return None


def walk(drawn: str, moves: str) -> Place:
  """Returns where a walk of the agent ends.

  Raises:
    KeyError: A character is not one of `MOVES`.
  """
  rows, place = _rows(drawn), place_of(drawn, AGENT)
  for letter in moves:
    place = _moved(rows, place, letter)
  return place


def place_of(drawn: str, mark: str) -> Place:
  """Returns the place of the agent or of the goal in a map."""
  marks = (mark, _ARRIVED)
  return next((i, j) for i, row in enumerate(_rows(drawn)) for j, found in enumerate(row) if found in marks)


def with_agent(drawn: str, place: Place) -> str:
  """Returns the map with the agent in a place."""
  goal = place_of(drawn, GOAL)
  rows = [[WALL if mark == WALL else FREE for mark in row] for row in _rows(drawn)]
  rows[goal[0]][goal[1]] = GOAL
  rows[place[0]][place[1]] = _ARRIVED if place == goal else AGENT
  return BREAK.join(''.join(row) for row in rows)


def _rows(drawn: str) -> list[str]:
  return drawn.removesuffix(SHOWN).split(BREAK)


def _moved(rows: list[str], place: Place, letter: str) -> Place:
  """Returns where a step ends, which is where it began if a wall or the edge of the map is in the way."""
  i, j = place[0] + MOVES[letter][0], place[1] + MOVES[letter][1]
  inside = 0 <= i < len(rows) and 0 <= j < len(rows[i])
  return (i, j) if inside and rows[i][j] != WALL else place

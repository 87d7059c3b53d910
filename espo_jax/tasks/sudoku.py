"""Sudoku, one character a token: every row, column and box has each digit once.

The prompt `1..4/..1./.4../2..3=` is the grid, row by row, with `.` for blanks. The response is a search and, behind `#`, the
solved grid, such as `#1234/3412/4321/2143`. A direct solution has no search. A search writes the letter of a blank and the
digit that it tries there, such as `a2b3`. A `;` marks a dead end and takes back the last digit. Each `;` that follows takes
back one more. The letters number the blanks row by row.
"""

import functools
import string
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Int

from espo_jax.tasks.registered import register
from espo_jax.tasks.task import Problem, Task, in_test, problem_id, problem_rng
from espo_jax.tasks.tokenizer import character_tokenizer

if TYPE_CHECKING:
  from transformers import PreTrainedTokenizerFast

Grid = Int[np.ndarray, 'side side']  # 0 is a blank

_LABELS = string.ascii_letters  # a grid has at most 48 blanks
_BLANK, _BREAK, _SHOWN, _BACK, _ANSWER = './=;#'


@register('sudoku')
@dataclass(frozen=True)
class Sudoku(Task):
  """Sudokus with one solution.

  Attributes:
    box: the rows and columns of a box; 2 is a grid of 4 by 4, and 3 one of 9 by 9.
    blanks: the number of blanks; None for 10 of 16 places, or 40 of 81.
    search: whether `solution` writes a depth-first search before the grid.
    dead_ends: the most dead ends of such a search, after which it goes straight to the solution [I].
    seed: the seed of the grids.
  """

  box: int = 2
  blanks: int | None = None
  search: bool = False
  dead_ends: int = 8
  seed: int = 0

  name = 'sudoku'

  def __post_init__(self) -> None:
    """Checks the settings, so that a wrong one fails at once."""
    if self.box not in (2, 3):
      raise ValueError(f'box = {self.box}; fix: 2 for grids of 4 by 4, or 3 for 9 by 9')
    most = {2: 11, 3: 48}[self.box]
    if not 1 <= self.count <= most:
      raise ValueError(f'blanks = {self.count}; fix: from 1 to {most}, because few grids with more have one solution')
    if self.dead_ends < 0:
      raise ValueError(f'dead_ends = {self.dead_ends}; fix: 0 for a search without a dead end, or a positive number')

  @property
  def side(self) -> int:
    """The number of rows, columns and digits."""
    return self.box**2

  @functools.cached_property
  def count(self) -> int:
    """The number of blanks."""
    return {2: 10, 3: 40}[self.box] if self.blanks is None else self.blanks

  @property
  def max_prompt_tokens(self) -> int:
    """The length of every prompt."""
    return self.side * (self.side + 1)

  @property
  def max_response_tokens(self) -> int:
    """A bound on the length of a solution: the search, `#`, the grid and the end token.

    Three tokens write a digit and take it back. Between two dead ends a search takes back at most `count` digits.
    """
    searched = 2 * self.count + 3 * self.count * self.dead_ends if self.search else 0
    return searched + 1 + self.side * (self.side + 1)

  def problem(self, split: str, index: int) -> Problem:
    """Draws the grid at `index` of `split`, again and again until it has one solution and its hash falls in the split."""
    identity, rng = problem_id(split, index), problem_rng(self.seed, split, index)
    while True:
      whole = next(solutions(np.zeros((self.side, self.side), int), rng))
      given = whole.copy()
      given.flat[rng.choice(whole.size, self.count, replace=False)] = 0
      prompt = write_grid(given) + _SHOWN
      if in_test(prompt) != (split == 'test'):
        continue
      found = solutions(given)
      next(found)
      if next(found, None) is None:
        return Problem(identity, prompt, write_grid(whole))

  def solution(self, problem: Problem, rng: np.random.Generator) -> str:
    """Writes the solved grid, behind a depth-first search if the task has one.

    The search fills the blanks row by row. It tries the digits that the row, the column and the box leave, in random order. The
    most dead ends are drawn from 0 .. dead_ends.
    """
    trace = ''
    if self.search:
      trace = ''.join(self._search(problem, int(rng.integers(self.dead_ends + 1)), rng))
    return trace + _ANSWER + problem.answer

  def verify(self, problem: Problem, response: str) -> bool:
    """Returns whether the text behind the last `#` is the solved grid. What stands before it is not checked."""
    return self.stated_answer(response) == problem.answer

  def stated_answer(self, response: str) -> str:
    """Returns the text behind the last `#`."""
    _, mark, answer = response.rpartition(_ANSWER)
    return answer if mark else ''

  def size(self, split: str) -> int | None:
    """Returns None, because problems are drawn without end. They can repeat."""
    return None

  def tokenizer(self) -> 'PreTrainedTokenizerFast':
    """Returns a tokenizer with one token per character."""
    digits = ''.join(str(digit) for digit in range(1, self.side + 1))
    return character_tokenizer(digits + _BLANK + _BREAK + _SHOWN + _BACK + _ANSWER + _LABELS[: self.count])

  def _search(self, problem: Problem, allowed: int, rng: np.random.Generator) -> Iterator[str]:
    """Yields the digits and signs of a search that meets at most `allowed` dead ends."""
    grid, whole = read_grid(problem.prompt), read_grid(problem.answer)
    blanks = [(int(row), int(column)) for row, column in np.argwhere(grid == 0)]
    untried = [_shuffled(grid, blanks[0], rng)]
    dead = 0
    while len(untried) <= len(blanks):
      place = blanks[len(untried) - 1]
      if dead >= allowed:  # straight on: only a grid that is right so far has the solution's digit
        right = all(grid[its] == whole[its] for its in blanks[: len(untried) - 1])
        untried[-1] = [digit for digit in untried[-1] if right and digit == whole[place]]
      if not untried[-1]:
        untried.pop()
        grid[blanks[len(untried) - 1]] = 0
        yield _BACK
        continue
      grid[place] = untried[-1].pop()
      yield _LABELS[len(untried) - 1] + str(grid[place])
      after = len(untried)
      untried.append(_shuffled(grid, blanks[after], rng) if after < len(blanks) else [])
      dead += after < len(blanks) and not untried[-1]


def solutions(grid: Grid, rng: np.random.Generator | None = None) -> Iterator[Grid]:
  """Yields all solved grids. The blank with the fewest possible digits is filled first.

  Args:
    grid: The given digits.
    rng: The source of the order in which digits are tried; None for ascending order.
  """
  side, box = len(grid), round(len(grid) ** 0.5)
  found, blanks = grid.copy(), [(int(row), int(column)) for row, column in np.argwhere(grid == 0)]
  groups = {(i, j): (i, side + j, 2 * side + i // box * box + j // box) for i in range(side) for j in range(side)}
  taken = [0] * (3 * side)  # the digits of each row, column and box, as bits
  for place, its in groups.items():
    for group in its if grid[place] else ():
      taken[group] |= 1 << int(grid[place])

  def left(place: tuple[int, int]) -> int:
    row, column, around = groups[place]
    return ~(taken[row] | taken[column] | taken[around]) & ((1 << side + 1) - 2)

  def fill() -> Iterator[Grid]:
    if not blanks:
      yield found.copy()
      return
    place = min(blanks, key=lambda its: left(its).bit_count())
    blanks.remove(place)
    digits = [digit for digit in range(1, side + 1) if left(place) >> digit & 1]
    for digit in digits if rng is None else rng.permutation(digits).tolist():
      found[place] = digit
      for group in groups[place]:
        taken[group] ^= 1 << digit
      yield from fill()
      for group in groups[place]:
        taken[group] ^= 1 << digit
    blanks.append(place)

  yield from fill()


def candidates(grid: Grid, place: tuple[int, int]) -> list[int]:
  """Returns the digits that are in neither the row, the column nor the box of a place."""
  box = round(len(grid) ** 0.5)
  row, column = place
  top, left = row - row % box, column - column % box
  taken = {*grid[row].tolist(), *grid[:, column].tolist(), *grid[top : top + box, left : left + box].ravel().tolist()}
  return [digit for digit in range(1, len(grid) + 1) if digit not in taken]


def write_grid(grid: Grid) -> str:
  """Writes a grid row by row."""
  return _BREAK.join(''.join(str(digit) if digit else _BLANK for digit in row) for row in grid.tolist())


def read_grid(text: str) -> Grid:
  """Reads a grid as it is written in a prompt or an answer."""
  rows = text.removesuffix(_SHOWN).split(_BREAK)
  return np.array([[0 if mark == _BLANK else int(mark) for mark in row] for row in rows])


def _shuffled(grid: Grid, place: tuple[int, int], rng: np.random.Generator) -> list[int]:
  return rng.permutation(candidates(grid, place)).astype(int).tolist()

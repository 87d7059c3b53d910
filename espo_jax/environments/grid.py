"""Navigation: the agent of the task 'grid' walks, and sees the map after each turn."""

import numpy as np

from espo_jax.environments.environment import Step
from espo_jax.environments.registered import register
from espo_jax.registry import source
from espo_jax.tasks.grid import GOAL, MOVES, SHOWN, place_of, shortest, walk, with_agent
from espo_jax.tasks.task import Problem, check_probability


class Grid:
  """Moves the agent of a map, and shows the map with the agent in its new place. The episode ends at the goal.

  A move into a wall or off the map leaves the agent where it is. Characters that are no moves are ignored. The expert walks the
  shortest way.

  Args:
    moves: The most moves of a turn that are carried out; those behind them are ignored.
    slips: The probability that a move of the expert goes in a random direction, so that a warm start makes mistakes.
  """

  task = 'grid'

  def __init__(self, *, moves: int = 1, slips: float = 0.0) -> None:
    """Stores the options."""
    if moves < 1:
      raise ValueError(f'environment.moves = {moves}; fix: at least 1')
    check_probability('environment.slips', slips)
    self._moves, self._slips, self._map, self._goal = moves, slips, '', (0, 0)

  def reset(self, problem: Problem, seed: int) -> str:
    """Poses the problem as it is."""
    self._map = problem.prompt
    self._goal = place_of(self._map, GOAL)
    self.expert_turns = -(-len(problem.answer) // self._moves)
    return problem.prompt

  def step(self, action: str, correct: float | None) -> Step:
    """Carries out the moves of a turn."""
    moves = ''.join(letter for letter in action if letter in MOVES)[: self._moves]
    end = walk(self._map, moves)
    self._map = with_agent(self._map, end) + SHOWN
    done = end == self._goal
    return Step(self._map, float(done), done)

  def expert(self, rng: np.random.Generator) -> str:
    """Returns the first moves of the shortest way, some of which slip."""
    way = shortest(self._map)
    assert way  # a map has a way, and the episode has not ended
    letters = [rng.choice([*MOVES]) if rng.random() < self._slips else letter for letter in way[: self._moves]]
    return ''.join(map(str, letters))


register('grid')(source('ours')(Grid))

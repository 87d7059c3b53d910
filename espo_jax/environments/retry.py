"""RISE: a wrong answer is followed by the request to try again."""

import numpy as np

from espo_jax.environments.environment import Step
from espo_jax.environments.registered import register
from espo_jax.registry import source
from espo_jax.tasks.task import Problem


class Retry:
  """Answers that the turn's answer is wrong, until one is right.

  The rewards of an episode add up to the verdict on its best turn: each turn earns by how much it is better than all before.

  Args:
    message: The answer to a wrong turn [U].
  """

  graded = True
  expert_turns = 1  # an expert is right at once

  def __init__(self, *, message: str = 'Your answer is incorrect. Try again.') -> None:
    """Stores the options."""
    self._message, self._best = message, 0.0

  def reset(self, problem: Problem, seed: int) -> str:
    """Poses the problem as it is."""
    return problem.prompt

  def step(self, action: str, correct: float | None) -> Step:
    """Ends the episode if the answer is right."""
    assert correct is not None
    gained = max(correct - self._best, 0.0)
    self._best += gained
    return Step(self._message, gained, correct >= 1)

  def expert(self, rng: np.random.Generator) -> None:
    """Takes the task's written solution for each turn, so that a task with noise has wrong turns as well."""


register('retry')(source('RISE, arXiv 2407.18219')(Retry))

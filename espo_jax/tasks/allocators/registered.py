"""The register of allocators, and what one is."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from espo_jax.registry import Method, Register
from espo_jax.tasks.allocators.stream import Stream

Memory = dict[str, np.ndarray]  # what an allocator remembers of the pool; a part of the train state


class Seen(NamedTuple):
  """What a rollout showed of its problems. A row that was not begun, or that was pruned, is nan.

  Attributes:
    problems: The problem of each prompt, an index into the pool.
    correct: How correct each row is.
    lengths: The number of tokens of each row.
    signal: The advantage of each row times the log-probability of its tokens; nan where the rollout was not trained on.
    asked: What the allocator remembered when it chose these problems, which is older than what it remembers now if the update
      had several rollouts.
  """

  problems: Int[np.ndarray, 'P']
  correct: Float[np.ndarray, 'P G']
  lengths: Float[np.ndarray, 'P G']
  signal: Float[np.ndarray, 'P G']
  asked: Memory

  @property
  def known(self) -> Bool[np.ndarray, 'P']:
    """Whether a row of the group is left. Without one the group tells nothing."""
    return ~np.isnan(self.correct).all(axis=1)


class Allocator(NamedTuple):
  """An allocator: pure functions over what it remembers.

  Attributes:
    init: `pool -> memory`, before the first rollout of a pool of so many problems.
    choose: `(memory, stream, position, count) -> (problems, position)`, the problems of a rollout and where the next goes on.
    share_out: `(memory, problems, samples) -> (rows[P], weights[P])`, the number of rows of each problem, from 1 to `samples`,
      and the factor of their advantages. None where each problem has `samples` rows.
    commit: `correct[P, G] -> bool[P]`, from how correct these rows are; nan is a row that was not begun. Where it is true the
      problem gets the rest of its `samples` rows in a second rollout. The other problems are not trained on. `share_out` then
      gives all problems the same number of rows. None where the first rollout is all.
    observe: `(memory, seen) -> memory`, once for each rollout.
  """

  init: Callable[[int], Memory]
  choose: Callable[[Memory, Stream, int, int], tuple[np.ndarray, int]]
  share_out: Callable[[Memory, np.ndarray, int], tuple[np.ndarray, np.ndarray]] | None
  observe: Callable[[Memory, Seen], Memory]
  commit: Callable[[np.ndarray], np.ndarray] | None = None


ALLOCATORS: Register[Callable[..., Allocator]] = Register('allocator', 'allocation.name')


def register(name: str) -> Callable[[Method], Method]:
  """Makes an allocator known as `allocation.name`.

  The registered function takes keyword-only options and returns an `Allocator`. An option is set as `config.allocation.OPTION`.

  Raises:
    RegistryError: The name cannot be used, or a parameter is not a keyword-only option with a default.
  """
  return ALLOCATORS.decorator(name, reads={})


def make_allocator(name: str, **options: Any) -> Allocator:
  """Returns the allocator registered as `name` with these options."""
  return ALLOCATORS.find(name)(**options)

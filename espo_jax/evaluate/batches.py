"""Splits the problems of an evaluation into batches of one shape, and says what an answer is an answer to."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

from espo_jax import parallel, tasks
from espo_jax.experiment import Experiment


@dataclasses.dataclass(frozen=True)
class Batch:
  """Some successive problems of an evaluation, each with the same number of answers.

  Attributes:
    first: The position of the first problem.
    mine: The problems whose rows this process has. The last batch repeats its last problem, so that all batches have one shape.
    each: The problem of each answer. Those of repeated problems are left out.
    tagged: The same problems with the tags of their prompts.
    samples: The number of answers to each problem.
    rows: The number of rows of all processes, those of repeated problems included.
  """

  first: int
  mine: list[tasks.Problem]
  each: list[tasks.Problem]
  tagged: list[tasks.Problem]
  samples: int
  rows: int

  def about(self, i: int) -> dict[str, Any]:
    """Returns the fields of `Answer` that say what answer number `i` of the batch is an answer to."""
    problem = self.tagged[i]
    return {
      'problem': self.first + i // self.samples,
      'id': problem.id,
      'sample': i % self.samples,
      'prompt': problem.prompt,
      'expected': problem.answer,
    }


def batches(exp: Experiment, problems: Sequence[tasks.Problem], prompts: int, samples: int, start: int) -> Iterator[Batch]:
  """Yields the batches of an evaluation, from that of the problem at `start` on.

  Args:
    exp: The experiment.
    problems: The problems of the evaluation.
    prompts: The number of problems in a batch.
    samples: The number of answers to each problem.
    start: The position of the first problem, a multiple of `prompts`.
  """
  for first in range(start, len(problems), prompts):
    fresh = problems[first : first + prompts]
    whole = [*fresh, *[fresh[-1]] * (prompts - len(fresh))]
    each, tagged = ([problem for problem in its for _ in range(samples)] for its in (fresh, exp.tagged(fresh)))
    mine = [whole[i] for i in parallel.my_rows(exp.mesh, prompts)]
    yield Batch(first, mine, each, tagged, samples, prompts * samples)

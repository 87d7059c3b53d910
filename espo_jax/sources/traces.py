"""A response as the steps of a thought and a conclusion."""

import itertools
import re
from typing import NamedTuple

from espo_jax.sources.judge import Judge
from espo_jax.sources.rollouts import Asked
from espo_jax.tasks.reasoning import end_of_thought

SEPARATOR = r'\n\n+'  # what ends a step, unless an option says otherwise
CANDIDATE = r'\\boxed|[Aa]nswer|####'  # what states an answer


class Trace(NamedTuple):
  """A response in parts that add up to its text.

  Attributes:
    steps: the steps of the thought.
    conclusion: the rest: from the tag on that closes the thought, or the last step of a response without such a tag.
  """

  steps: tuple[str, ...]
  conclusion: str


def read_trace(response: str, separator: str) -> Trace:
  """Splits a response.

  Args:
    response: the text.
    separator: a regular expression whose matches end steps.
  """
  close = end_of_thought(response)
  if close >= 0:
    return Trace(split_steps(response[:close], separator), response[close:])
  *steps, conclusion = split_steps(response, separator) or ('',)
  return Trace(tuple(steps), conclusion)


def split_steps(text: str, separator: str) -> tuple[str, ...]:
  """Returns the steps of a text, each with what ends it. A step of blanks is a part of the step before it.

  Raises:
    ValueError: The separator is no regular expression.
  """
  ends = [0, *(match.end() for match in expression('separator', separator).finditer(text)), len(text)]
  steps: list[str] = []
  for start, stop in itertools.pairwise(ends):
    if steps and not text[start:stop].strip():
      steps[-1] += text[start:stop]
    elif start < stop:
      steps.append(text[start:stop])
  return tuple(steps)


def candidates(trace: Trace, candidate: str) -> list[int]:
  """Returns which steps of the thought state an answer, because the expression `candidate` is found in them."""
  pattern = expression('candidate', candidate)
  return [i for i, step in enumerate(trace.steps) if pattern.search(step)]


def first_right(judge: Judge, asked: Asked, trace: Trace, stated: list[int]) -> int:
  """Returns the index of the first step that states a right answer; that of the last step if none does.

  Args:
    judge: the judge of the rollouts.
    asked: the problem.
    trace: a response to it.
    stated: the steps that state an answer.
  """
  for i in stated:
    if judge.right(asked, [trace.steps[i]])[0]:
      return i
  return len(trace.steps) - 1


def expression(option: str, pattern: str) -> re.Pattern[str]:
  """Compiles an option that is a regular expression.

  Raises:
    ValueError: It is none. The message has the option, its value and the fix.
  """
  try:
    return re.compile(pattern)
  except re.error as error:
    raise ValueError(f'{option}={pattern}: no regular expression ({error}); fix: one of the module re') from error

"""Defines what a task provides: problems by number, written solutions, an exact verifier and a tokenizer."""

import difflib
import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar, runtime_checkable

import numpy as np

if TYPE_CHECKING:
  from transformers import PreTrainedTokenizerFast

SPLITS = ('train', 'test')
TEST_SHARE = 8  # one problem in eight, by the hash of its prompt, belongs to the test split

T = TypeVar('T')


class DataError(ValueError):
  """A data file that cannot be used. The message names the place and the fix."""


class Problem(NamedTuple):
  """One problem. Its `id` fits in uint32 and is unique per (split, index)."""

  id: int
  prompt: str
  answer: str


STATUSES = ('ok', 'timeout', 'error')  # of a grading, the worst last


class Verdict(NamedTuple):
  """The grade of a response, and the grader's status, one of `STATUSES`.

  In training a score between 0 and 1 counts as it is. In an evaluation only a score of 1 is right.
  """

  correct: bool | float
  status: str


class Finding(NamedTuple):
  """A fact about a task's data that a run reports: a message for its log, and entries for a file in its folder."""

  file: str
  message: str
  entries: list[dict[str, Any]]


@runtime_checkable
class Task(Protocol):
  """A stateless source of problems. A position in the data is an integer, so a run that is resumed needs nothing else."""

  @property
  def name(self) -> str:
    """The registered name."""

  @property
  def max_prompt_tokens(self) -> int:
    """An upper bound on the tokens of a prompt."""

  @property
  def max_response_tokens(self) -> int:
    """An upper bound on the tokens of a supervised solution, the end token included."""

  def problem(self, split: str, index: int) -> Problem:
    """Returns the problem at `index` of `split` ('train' or 'test'), a pure function of the task's seed, split and index."""

  def question(self, problem: Problem) -> str:
    """Returns the problem for a person to read, without the text that the prompt adds for the model."""
    return problem.prompt

  def solution(self, problem: Problem, rng: np.random.Generator) -> str:
    """Returns a supervised response without the end token."""

  def verify(self, problem: Problem, response: str) -> bool | float:
    """Returns whether a decoded response, without the end token, solves the problem, or a score in [0, 1].

    Every text must be accepted.
    """

  def verify_all(self, problems: Sequence[Problem], responses: Sequence[str]) -> list[Verdict]:
    """Returns one verdict per response. A task whose grading can fail reports a failure in the status."""
    return [Verdict(self.verify(problem, response), 'ok') for problem, response in zip(problems, responses, strict=True)]

  def stated_answer(self, response: str) -> str:
    """Returns the final answer that a text states, spelled so that equal answers are equal strings; '' if it states none."""

  def size(self, split: str) -> int | None:
    """Returns the number of different problems of a split; None if it is endless."""

  def tokenizer(self) -> 'PreTrainedTokenizerFast':
    """Returns a tokenizer that can encode every prompt and solution."""

  def findings(self) -> list[Finding]:
    """Returns what a run reports about the data before it begins. A task that draws its problems has nothing to report."""
    return []


def lookup(kind: str, name: str, table: Mapping[str, T]) -> T:
  """Returns `table[name]`; an unknown name raises ValueError with the nearest known name."""
  if name in table:
    return table[name]
  near = difflib.get_close_matches(str(name), table, n=1, cutoff=0.4)
  hint = f' did you mean {near[0]!r}?' if near else ''
  raise ValueError(f'unknown {kind} {name!r};{hint} known: {", ".join(sorted(table))}')


def problem_id(split: str, index: int) -> int:
  """Returns the uint32 id of (split, index), whose lowest bit is the split."""
  bit = split_bit(split)
  if not 0 <= index < 2**31:
    raise ValueError(f'problem index {index} is outside 0 .. 2**31 - 1')
  return 2 * int(index) + bit


def split_bit(split: str) -> int:
  """Returns 0 for 'train' and 1 for 'test', and raises ValueError for any other name."""
  return lookup('split', split, {name: bit for bit, name in enumerate(SPLITS)})


def in_test(prompt: str, share: int = TEST_SHARE) -> bool:
  """Returns whether a prompt belongs to the test split. A stable hash decides, so the splits are disjoint for every seed."""
  return int.from_bytes(hashlib.blake2b(prompt.encode(), digest_size=8).digest()) % share == 0


def problem_rng(seed: int, split: str, index: int) -> np.random.Generator:
  """Returns the random generator that draws the problem (seed, split, index)."""
  return np.random.default_rng([seed, split_bit(split), index])


def check_probability(name: str, value: float) -> None:
  """Raises ValueError unless 0 <= value <= 1."""
  if not 0.0 <= value <= 1.0:
    raise ValueError(f'{name} = {value} is not a probability; fix: choose a value in [0, 1]')

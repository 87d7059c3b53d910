"""What a task is: problems by number, a written solution, an exact verifier, a tokenizer."""

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
  """A data file that cannot be used; the message names the place and the fix."""


class Problem(NamedTuple):
  """One problem. `id` fits in uint32 and is unique per (split, index)."""

  id: int
  prompt: str
  answer: str


class Verdict(NamedTuple):
  """How right a response is, and whether the grader could tell: 'ok', 'timeout' or 'error'.

  A score between 0 and 1 is what training earns for it; to an evaluation only 1 is right.
  """

  correct: bool | float
  status: str


class Finding(NamedTuple):
  """Something about a task's data that a run should say: a line for its log, and a list for its folder."""

  file: str
  message: str
  entries: list[dict[str, Any]]


@runtime_checkable
class Task(Protocol):
  """A stateless source of problems: a position in the data is an integer, so a resume needs nothing else."""

  @property
  def name(self) -> str:
    """The registered name."""

  @property
  def max_prompt_tokens(self) -> int:
    """Upper bound of a prompt's tokens."""

  @property
  def max_response_tokens(self) -> int:
    """Upper bound of a supervised solution's tokens, the end token included."""

  def problem(self, split: str, index: int) -> Problem:
    """The problem at `index` of `split` ('train' or 'test'), a pure function of (the task's seed, split, index)."""

  def question(self, problem: Problem) -> str:
    """The problem for a person to read: without what the prompt has around it for the model."""
    return problem.prompt

  def solution(self, problem: Problem, rng: np.random.Generator) -> str:
    """A supervised response, without the end token."""

  def verify(self, problem: Problem, response: str) -> bool | float:
    """Whether decoded text, without the end token, solves the problem, or how far, in [0, 1]. Any text is safe to pass."""

  def verify_all(self, problems: Sequence[Problem], responses: Sequence[str]) -> list[Verdict]:
    """One verdict a response; a task whose grading can fail says so in the status."""
    return [Verdict(self.verify(problem, response), 'ok') for problem, response in zip(problems, responses, strict=True)]

  def stated_answer(self, response: str) -> str:
    """The final answer that any text states, spelled so that equal answers are equal; '' where it states none."""

  def size(self, split: str) -> int | None:
    """The number of different problems of a split; None when endless."""

  def tokenizer(self) -> 'PreTrainedTokenizerFast':
    """The tokenizer that covers every prompt and solution."""

  def findings(self) -> list[Finding]:
    """What a run should say about the data before it begins; for a task that draws its problems, nothing."""
    return []


def lookup(kind: str, name: str, table: Mapping[str, T]) -> T:
  """Returns `table[name]`; an unknown name raises ValueError with the nearest known name."""
  if name in table:
    return table[name]
  near = difflib.get_close_matches(str(name), table, n=1, cutoff=0.4)
  hint = f' did you mean {near[0]!r}?' if near else ''
  raise ValueError(f'unknown {kind} {name!r};{hint} known: {", ".join(sorted(table))}')


def problem_id(split: str, index: int) -> int:
  """The uint32 id of (split, index): the low bit is the split."""
  bit = split_bit(split)
  if not 0 <= index < 2**31:
    raise ValueError(f'problem index {index} is outside 0 .. 2**31 - 1')
  return 2 * int(index) + bit


def split_bit(split: str) -> int:
  """0 for 'train', 1 for 'test'; anything else raises ValueError."""
  return lookup('split', split, {name: bit for bit, name in enumerate(SPLITS)})


def in_test(prompt: str, share: int = TEST_SHARE) -> bool:
  """Whether a prompt belongs to the test split: by a stable hash, so the splits are disjoint whatever the seed."""
  return int.from_bytes(hashlib.blake2b(prompt.encode(), digest_size=8).digest()) % share == 0


def problem_rng(seed: int, split: str, index: int) -> np.random.Generator:
  """The generator that draws problem (seed, split, index)."""
  return np.random.default_rng([seed, split_bit(split), index])


def check_probability(name: str, value: float) -> None:
  """Raises ValueError unless 0 <= value <= 1."""
  if not 0.0 <= value <= 1.0:
    raise ValueError(f'{name} = {value} is not a probability; fix: choose a value in [0, 1]')

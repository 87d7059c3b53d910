"""GSM8K: grade-school word problems from a local JSON-lines file."""

import functools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from espo_jax.tasks.base import DataError, Problem, in_test, problem_id, split_bit
from espo_jax.tasks.numbers import MARK, final_number, grade_number
from espo_jax.tasks.tokenizer import byte_bpe_tokenizer

if TYPE_CHECKING:
  from transformers import PreTrainedTokenizerFast

HELD_OUT = 10  # one row in ten is the test split where there is no test file


class Row(NamedTuple):
  """One line of the file, ready for use."""

  place: str  # FILE:LINE
  question: str
  prompt: str
  solution: str
  answer: str


class Gsm8k:
  """Word problems in epochs: train index i is row `order[i % n]` of epoch `i // n`, shuffled per (seed, epoch).

  Rows of the train split whose prompt or solution exceeds its limit are left out and counted in `dropped`. A prompt of the test
  split that exceeds the limit is an error: leaving it out would change the benchmark.

  Attributes:
    dropped: the number of train rows left out.
  """

  name = 'gsm8k'

  def __init__(
    self,
    path: str,
    eval_path: str = '',
    vocab_size: int = 1024,
    max_prompt_tokens: int = 320,
    max_response_tokens: int = 384,
    seed: int = 0,
  ) -> None:
    """Reads and checks the files, and trains the tokenizer.

    Args:
      path: the JSON-lines file with fields `question` and `answer`; the answer ends in `#### 18`.
      eval_path: the test split; when empty, one row in ten of `path`, by the hash of its question.
      vocab_size: of the byte-level BPE trained on the train split.
      max_prompt_tokens: the limit of a prompt.
      max_response_tokens: the limit of a solution with its end token.
      seed: of the shuffles.
    """
    rows = read_rows(path, 'data.path')
    train = rows if eval_path else [row for row in rows if not in_test(row.question, HELD_OUT)]
    test = read_rows(eval_path, 'data.eval_path') if eval_path else [row for row in rows if in_test(row.question, HELD_OUT)]
    self.max_prompt_tokens = max_prompt_tokens
    self.max_response_tokens = max_response_tokens
    self.seed = seed
    self._tokenizer = byte_bpe_tokenizer((text for row in train for text in (row.prompt, row.solution)), vocab_size)
    self._rows = {'train': self._that_fit(train), 'test': test}
    self.dropped = len(train) - len(self._rows['train'])
    if not self._rows['train']:
      raise DataError(
        f'data.path = {path!r}: none of {len(train)} train rows fits max_prompt_tokens = {max_prompt_tokens} and '
        f'max_response_tokens = {max_response_tokens}; fix: raise them, or add rows'
      )
    for row, tokens in zip(test, self._count(row.prompt for row in test), strict=True):
      if tokens > max_prompt_tokens:
        raise DataError(
          f"{row.place}: field 'question': {tokens} tokens, more than max_prompt_tokens = {max_prompt_tokens}; "
          f'fix: raise it, or take the row out of the test split'
        )

  def problem(self, split: str, index: int) -> Problem:
    """The problem at `index`: endless epochs of the train split, the test split once in file order."""
    identity = problem_id(split, index)
    row = self._row(split, index)
    return Problem(identity, row.prompt, row.answer)

  def solution(self, problem: Problem, rng: np.random.Generator) -> str:
    """The written solution without its calculator annotations; ends with `#### 18`."""
    return self._row('test' if problem.id & split_bit('test') else 'train', problem.id >> 1).solution

  def verify(self, problem: Problem, response: str) -> bool:
    """Whether the number after the response's last `####` equals the answer."""
    return grade_number(response, problem.answer)

  def size(self, split: str) -> int | None:
    """The number of rows of a split."""
    split_bit(split)
    return len(self._rows[split])

  def tokenizer(self) -> 'PreTrainedTokenizerFast':
    """The byte-level BPE of the train split."""
    return self._tokenizer

  def _row(self, split: str, index: int) -> Row:
    rows = self._rows[split]
    if split == 'train':
      epoch, position = divmod(index, len(rows))
      return rows[_order(self.seed, epoch, len(rows))[position]]
    if index >= len(rows):
      raise IndexError(f'the test split has {len(rows)} rows; there is no index {index}')
    return rows[index]

  def _that_fit(self, rows: list[Row]) -> list[Row]:
    prompts = self._count(row.prompt for row in rows)
    solutions = self._count(row.solution for row in rows)
    limits = self.max_prompt_tokens, self.max_response_tokens - 1  # the end token takes one
    return [
      row
      for row, prompt, solution in zip(rows, prompts, solutions, strict=True)
      if prompt <= limits[0] and solution <= limits[1]
    ]

  def _count(self, texts: Iterator[str]) -> list[int]:
    encodings = self._tokenizer.backend_tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
    return [len(encoding.ids) for encoding in encodings]


def read_rows(path: str, field: str) -> list[Row]:
  """Reads and checks a JSON-lines file; blank lines are skipped.

  Args:
    path: the file.
    field: the configuration field that named it, for the error messages.

  Raises:
    DataError: the file cannot be read, has no rows, or has a malformed line; the message says which and what to do.
  """
  try:
    data = Path(path).read_bytes()
  except OSError as error:
    raise DataError(f'{field} = {path!r}: {error.strerror}; fix: set {field} to a readable JSON-lines file') from error
  lines = enumerate(data.removeprefix(b'\xef\xbb\xbf').split(b'\n'), start=1)
  rows = [_parse(f'{path}:{number}', line) for number, line in lines if line.strip()]
  if not rows:
    raise DataError(f'{field} = {path!r}: no rows; fix: set {field} to a file with one JSON object a line')
  return rows


def _parse(place: str, line: bytes) -> Row:
  try:
    record = json.loads(line.decode())
  except (ValueError, RecursionError) as error:
    raise DataError(f'{place}: not JSON ({error}); fix: one JSON object a line, in UTF-8') from error
  if not isinstance(record, dict):
    raise DataError(f'{place}: not an object but {type(record).__name__}; fix: {{"question": ..., "answer": ...}}')
  question, answer = (_text(place, record, field) for field in ('question', 'answer'))
  body, mark, final = re.sub(r'<<[^<>]*>>', '', answer).rpartition(MARK)
  if not mark:
    raise DataError(f"{place}: field 'answer': no {MARK!r}; fix: end the answer with '{MARK} ' and the number")
  number = final_number(mark + final) if '\n' not in final.strip() else None
  if number is None:
    raise DataError(f"{place}: field 'answer': {final.strip()[:40]!r} after {MARK!r} is not a number; fix: a number such as 18")
  stated = f'{number:f}'
  return Row(place, question, question + '\n', f'{body}{MARK} {stated}', stated)


def _text(place: str, record: dict[str, object], field: str) -> str:
  if field not in record:
    raise DataError(f'{place}: field {field!r}: missing; fix: add it')
  value = record[field]
  if not isinstance(value, str):
    raise DataError(f'{place}: field {field!r}: {type(value).__name__} instead of text; fix: a JSON string')
  if not value.strip():
    raise DataError(f'{place}: field {field!r}: empty; fix: fill it in, or take the line out')
  try:
    value.encode()
  except UnicodeEncodeError as error:
    raise DataError(f'{place}: field {field!r}: not valid Unicode ({error.reason}); fix: remove the lone surrogate') from error
  return value.strip()


@functools.lru_cache(maxsize=8)
def _order(seed: int, epoch: int, rows: int) -> np.ndarray:
  return np.random.default_rng([seed, epoch]).permutation(rows)

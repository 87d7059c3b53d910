"""Describes the benchmarks: where each is published, and how its records become problems with answers."""

import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

from espo_jax.tasks.records import Record, number_or_text, text, value
from espo_jax.tasks.task import DataError

MARK = '####'  # in GSM8K the final answer follows it
_CALCULATION = re.compile(r'<<[^<>]*>>')  # GSM8K's annotations for a calculator
_NUMBER = re.compile(r'\$?\s*(-?)\s*\$?\s*((?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+)')
_BOX = re.compile(r'\\(?:boxed|fbox)(?![A-Za-z])\s*')
_TOKEN = re.compile(r'\\[A-Za-z]+|\\.|[\s\S]')  # a command, an escaped character, a character
# The text around the problem in DAPO's prompts.
_DAPO_BEFORE = re.compile(r'\ASolve the following math problem step by step\.[^\n]*\n\s*')
_DAPO_AFTER = re.compile(r'\s*Remember to put your answer on its own line after "Answer:"\.?\s*\Z')


class Row(NamedTuple):
  """A problem of a benchmark in the form that all benchmarks share.

  Attributes:
    place: the position of the record, `FILE:LINE`.
    problem: the bare problem, without instructions.
    solution: the written solution, which ends in a form that the grader reads; None if the benchmark has no solutions.
    answer: the final answer alone.
  """

  place: str
  problem: str
  solution: str | None
  answer: str


class Benchmark(NamedTuple):
  """A benchmark.

  Attributes:
    name: the benchmark's name in `data.benchmark`.
    parse: the function that turns a record and its place into a row. It raises DataError for a malformed record.
    hub: the benchmark's name on the Hugging Face Hub.
    files: the files on the Hub, by split.
    has_solutions: whether its rows have written solutions.
    repeats: whether its file holds each problem many times. Then only the first copy is kept.
  """

  name: str
  parse: Callable[[str, Record], Row]
  hub: str
  files: Mapping[str, tuple[str, ...]]
  has_solutions: bool
  repeats: bool = False


def last_box(solution: str) -> tuple[int, str, int] | None:
  r"""Finds the last `\boxed{...}` or `\fbox{...}`, matching braces, and returns its start, its content and its end.

  A box without braces holds one character or one command. The result is None if there is no box, or if the last box is empty or
  is never closed.
  """
  *_, start = [None, *_BOX.finditer(solution)]
  if start is None:
    return None
  depth = 0
  for token in _TOKEN.finditer(solution, start.end()):
    depth += {'{': 1, '}': -1}.get(token[0], 0)
    if depth <= 0:
      content = solution[start.end() : token.end()]
      content = content[1:-1] if token[0] == '}' else content
      return (start.start(), content.strip(), token.end()) if content.strip() else None
  return None


def _gsm8k(place: str, record: Record) -> Row:
  question, written = text(place, record, 'question'), text(place, record, 'answer')
  body, mark, final = _CALCULATION.sub('', written).rpartition(MARK)
  if not mark:
    raise DataError(f"{place}: field 'answer': no {MARK!r}; fix: end the answer with '{MARK} ' and the number")
  number = _NUMBER.fullmatch(final.strip().rstrip('.'))
  if number is None:
    raise DataError(f"{place}: field 'answer': {final.strip()[:40]!r} after {MARK!r} is not a number; fix: a number such as 18")
  stated = number[1] + number[2].replace(',', '')
  return Row(place, question, f'{body}{MARK} {stated}', stated)


def _math(place: str, record: Record) -> Row:
  """Parses a record of MATH, in which the last box holds the answer.

  Earlier boxes are removed and their content is kept, because a grader would read several boxes as a list.
  """
  problem, written = text(place, record, 'problem'), text(place, record, 'solution')
  box = last_box(written)
  if box is None:
    raise DataError(f"{place}: field 'solution': no complete \\boxed{{...}}; fix: put the final answer in one")
  start, answer, end = box
  return Row(place, problem, f'{_BOX.sub("", written[:start])}\\boxed{{{answer}}}{written[end:]}', answer)


def _math500(place: str, record: Record) -> Row:
  row, answer = _math(place, record), text(place, record, 'answer')
  if answer != row.answer:
    raise DataError(
      f"{place}: field 'answer': {answer[:40]!r}, but the solution's box holds {row.answer[:40]!r}; fix: one of them"
    )
  return row


def _contest(place: str, record: Record) -> Row:
  """Parses a record of AIME or AMC.

  Some copies name the problem's field `problem`, others `question`. Solutions are not read, because they are notes of many
  people.
  """
  problem = text(place, record, 'problem' if 'problem' in record else 'question')
  answer = number_or_text(place, record, 'answer')
  if not re.fullmatch('-?[0-9]{1,12}', answer):
    raise DataError(f"{place}: field 'answer': {answer[:40]!r} is not a whole number; fix: the number of the contest's key")
  return Row(place, problem, None, str(int(answer)))


def _dapo(place: str, record: Record) -> Row:
  messages, index = value(place, record, 'prompt'), number_or_text(place, record, 'extra_info.index')
  message = messages[0] if isinstance(messages, list) and len(messages) == 1 else None
  if not isinstance(message, dict) or message.get('role') != 'user':
    raise DataError(f"{place}: field 'prompt': not one message of the user; fix: [{{'role': 'user', 'content': '...'}}]")
  problem = _DAPO_AFTER.sub('', _DAPO_BEFORE.sub('', text(place, message, 'content')))
  if not problem:
    raise DataError(f"{place}: field 'prompt': no problem among the instructions; fix: take the row out")
  return Row(f'{place} (index {index})', problem, None, number_or_text(place, record, 'reward_model.ground_truth'))


_SUBJECTS = (
  'algebra',
  'counting_and_probability',
  'geometry',
  'intermediate_algebra',
  'number_theory',
  'prealgebra',
  'precalculus',
)

BENCHMARKS = {
  benchmark.name: benchmark
  for benchmark in (
    Benchmark(
      name='gsm8k',
      parse=_gsm8k,
      hub='openai/gsm8k',
      files={split: (f'main/{split}-00000-of-00001.parquet',) for split in ('train', 'test')},
      has_solutions=True,
    ),
    Benchmark(
      name='math',
      parse=_math,
      hub='EleutherAI/hendrycks_math',
      files={split: tuple(f'{s}/{split}-00000-of-00001.parquet' for s in _SUBJECTS) for split in ('train', 'test')},
      has_solutions=True,
    ),
    Benchmark(
      name='dapo_math_17k',
      parse=_dapo,
      hub='BytedTsinghua-SIA/DAPO-Math-17k',
      files={'train': ('data/dapo-math-17k.parquet',)},
      has_solutions=False,
      repeats=True,
    ),
    Benchmark(
      name='math500', parse=_math500, hub='HuggingFaceH4/MATH-500', files={'test': ('test.jsonl',)}, has_solutions=True
    ),
    Benchmark(
      name='aime24',
      parse=_contest,
      hub='HuggingFaceH4/aime_2024',
      files={'test': ('data/train-00000-of-00001.parquet',)},  # the only file
      has_solutions=False,
    ),
    Benchmark(
      name='amc23',
      parse=_contest,
      hub='math-ai/amc23',
      files={'test': ('test-00000-of-00001.parquet',)},
      has_solutions=False,
    ),
  )
}

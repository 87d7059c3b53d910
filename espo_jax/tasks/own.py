"""Reads data of the user's own, `data.benchmark = 'jsonl'`: records whose fields the user names."""

from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any

from espo_jax.names import nearest
from espo_jax.tasks.benchmarks import BENCHMARKS, MARK, Benchmark, Row, last_box
from espo_jax.tasks.grading.answers import final_answer
from espo_jax.tasks.grading.equality import same_answer
from espo_jax.tasks.grading.grader import MAX_ANSWER
from espo_jax.tasks.records import Record, number_or_text, text, value
from espo_jax.tasks.task import DataError, lookup

JSONL = 'jsonl'
FIELDS = ('problem_field', 'answer_field', 'solution_field')
_SHOWN = 12  # fields of a record that an error lists
_DEPTH = 4  # levels of a record that it looks into
_KINDS = {type(None): 'null', bool: 'true or false', list: 'a list', dict: 'an object', int: 'a number', float: 'a number'}


def find_benchmark(name: str, problem_field: str = '', answer_field: str = '', solution_field: str = '') -> Benchmark:
  """Returns the benchmark with a name: one of `BENCHMARKS`, or 'jsonl' for records of the user's own.

  A field's name is its key in the record, or a path into the record: `problem.text`, `messages.0.content`, `answers.-1`.

  Args:
    name: The benchmark's name.
    problem_field: The field of 'jsonl' that holds the problem, a text.
    answer_field: The field of 'jsonl' that holds the final answer: a number, a text, or a text with the answer behind `####` or
      in a box.
    solution_field: The field of 'jsonl' that holds a written solution; '' if no solution is read.

  Raises:
    ValueError: There is no such benchmark. The message has the nearest name.
  """

  def parse(place: str, record: Record) -> Row:
    problem = _read(place, record, problem_field, 'problem_field')
    answer = _final(place, answer_field, _read(place, record, answer_field, 'answer_field', numbers=True))
    solution = _read(place, record, solution_field, 'solution_field') if solution_field else None
    return Row(place, problem, solution and _that_answers(solution, answer), answer)

  own = Benchmark(JSONL, parse, hub='', files={}, has_solutions=bool(solution_field))
  return lookup('benchmark', name, {**BENCHMARKS, JSONL: own})


def _final(place: str, field: str, written: str) -> str:
  """Returns the answer in a text. The text is the answer alone, or marks the answer as the grader reads it."""
  answer = final_answer(written)[1] if MARK in written or last_box(written) else written
  if not answer or len(answer) > MAX_ANSWER:
    said = f'an answer of {len(answer)} characters, which cannot be graded'
    raise DataError(f'{place}: field {field!r}: {said}; fix: the final answer alone, in at most {MAX_ANSWER} characters')
  return answer


def _that_answers(solution: str, answer: str) -> str:
  """Returns the solution. Unless the grader reads the answer in it, the answer is appended in a box."""
  stated = final_answer(solution)[1] if MARK in solution or last_box(solution) else None
  return solution if stated and same_answer(stated, answer) is not False else f'{solution}\n\\boxed{{{answer}}}'


def _read(place: str, record: Record, field: str, option: str, *, numbers: bool = False) -> str:
  """Reads the text at a field that the user named; with `numbers` the field may also hold a number."""
  flag, wanted = f'--config.data.{option}', 'text or a number' if numbers else 'text'
  try:
    found = value(place, record, field)
  except DataError:
    raise _refused(place, record, field, 'missing', f'{flag}={_meant(field, record)}') from None
  if isinstance(found, str):
    if not found.strip():
      raise _refused(place, record, field, 'empty', 'fill it in, or take the row out')
    return text(place, record, field)
  if numbers and isinstance(found, int | float | Decimal) and not isinstance(found, bool):
    return number_or_text(place, record, field)
  inside = next(_leaves(found), '')
  said = f'{_KINDS.get(type(found), type(found).__name__)} instead of {wanted}'
  raise _refused(place, record, field, said, f'{flag}={field}.{inside}' if inside else f'{wanted}, or take the row out')


def _refused(place: str, record: Record, field: str, said: str, fix: str) -> DataError:
  """Makes the error for a field, which lists the fields of the record."""
  known = [*_leaves(record)]
  listed = ', '.join(known[:_SHOWN]) + (', ...' if len(known) > _SHOWN else '')
  return DataError(f'{place}: field {field!r}: {said}; the record has {listed or "no fields"}; fix: {fix}')


def _meant(field: str, record: Record) -> str:
  """Returns the field of the record that a name probably means, compared by the whole path or by the path's end."""
  known = [*_leaves(record)]
  ends = {other.rpartition('.')[2]: other for other in reversed(known)}
  return nearest(field, known) or ends.get(nearest(field.rpartition('.')[2], ends) or '') or 'NAME, one of these'


def _leaves(found: Any, depth: int = 0) -> Iterator[str]:
  """Yields the paths to the values in a record. Only the first item of a list is followed."""
  parts = found.items() if isinstance(found, Mapping) else [('0', found[0])] if isinstance(found, list) and found else []
  for name, part in parts:
    inside = [*_leaves(part, depth + 1)] if depth + 1 < _DEPTH else []
    yield from (f'{name}.{path}' for path in inside) if inside else (str(name),)

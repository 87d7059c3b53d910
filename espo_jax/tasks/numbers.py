"""Numeric grading: the number that a free-text answer states, exactly."""

import re
from decimal import Decimal

MARK = '####'  # the final answer follows the last one
MAX_CHARACTERS = 64  # of a stated answer: bounds the work that hostile text can ask for

_ANSWER = re.compile(
  r'[ \t]*(?P<sign>-?)[ \t]*\$?[ \t]*(?P<inner>-?)(?P<number>(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+)'
  r"(?![²³])[A-Za-z%$€£°²³ \t./'()-]*"  # a unit, a full stop: no second number, no operator, no power
)


def parse_number(text: str) -> Decimal | None:
  """The number `text` states: `18`, `$1,800.50`, `-3.`, `5 apples`; None when it states none, or more than one."""
  if len(text) > MAX_CHARACTERS:
    return None
  match = _ANSWER.fullmatch(text)
  if match is None or (match['sign'] and match['inner']):
    return None
  return Decimal((match['sign'] or match['inner']) + match['number'].replace(',', ''))


def final_number(response: str) -> Decimal | None:
  """The number on the line of the last `####`; None when there is none. Later lines do not matter."""
  _, mark, tail = response.rpartition(MARK)
  return parse_number(tail.split('\n', 1)[0].strip()) if mark else None


def grade_number(response: str, answer: str) -> bool:
  """Whether the response's final number equals the answer, as numbers: `18` is `18.00`."""
  expected = parse_number(answer)
  return expected is not None and final_number(response) == expected

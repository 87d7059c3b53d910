"""Writes equal answers in one way, so that a majority vote can count them."""

import re

from espo_jax.tasks.grading.answers import final_answer
from espo_jax.tasks.grading.quantities import parse_number, strip_unit
from espo_jax.tasks.grading.spelling import spell, squeeze

MOST = 1_000  # the most characters; a longer answer counts as none, as in the grader
_VARIABLE = re.compile(r'[A-Za-z](?:_\w)? ?')
_OPERATION = re.compile(r'\\(?:times|cdot|div|frac)')
_WORD_IN_BRACKETS = re.compile(r'\(([A-Za-z]+)\)')
_SET = re.compile(r'\\\{([^][(){}\\]*)\\\}')
_BRACKET = re.compile(r'[][(){}\\]')
_SCRIPT = re.compile(r'([_^])\{(\w)\}')
_SEPARATOR = re.compile(r',(?![0-9]{3}(?![0-9]))|;| and | or ')  # not the comma of 1,000


def pooled_answer(response: str) -> str:
  r"""Returns the final answer of a free text in a form in which most equal answers are the same text.

  | answer | form |
  |---|---|
  | `\frac12`, `0.5`, `x = 1/2`, `2/4 cm` | `1/2` |
  | `50\%` | `50` |
  | `(B)` | `b` |
  | a set, or a list without brackets | the sorted items |

  No computer algebra is used, so equal formulas of different form stay different. The gold answer is not used either, because
  it would gather only the votes for right answers.

  Args:
    response: Any text.

  Returns:
    The answer; '' if the text states none.
  """
  _, picked = final_answer(response)
  if len(picked) > MOST:
    return ''
  answer = spell(picked)
  listed = match[1] if (match := _SET.fullmatch(answer)) else answer
  if _BRACKET.search(listed) or not _SEPARATOR.search(listed) or parse_number(strip_unit(listed)):
    return _value(listed)
  return ','.join(sorted(_value(item.strip()) for item in _SEPARATOR.split(listed) if item.strip()))


def _value(answer: str) -> str:
  """Writes a number as a reduced fraction, and any other answer in lower case without meaningless spaces and braces."""
  left, equals, right = answer.rpartition('=')
  if equals and (_VARIABLE.fullmatch(left) or not any(map(str.isalpha, _OPERATION.sub('', left)))):
    answer = right.strip()  # 5 in `x = 5` and in `2 + 3 = 5`
  if word := _WORD_IN_BRACKETS.fullmatch(answer):
    answer = word[1]
  answer = strip_unit(answer)
  number = parse_number(answer)
  if number is None:
    return _SCRIPT.sub(r'\1\2', squeeze(answer)).replace('bmatrix', 'pmatrix').casefold()
  return str(number.value)

"""One spelling for answers that are equal, so that they can be counted: what a vote among responses goes by."""

import re

from espo_jax.tasks.grading.answers import final_answer
from espo_jax.tasks.grading.quantities import parse_number, strip_unit
from espo_jax.tasks.grading.spelling import spell, squeeze

MOST = 1_000  # characters: a longer answer is none, as it is none to the grader
_VARIABLE = re.compile(r'[A-Za-z](?:_\w)? ?')
_OPERATION = re.compile(r'\\(?:times|cdot|div|frac)')
_WORD_IN_BRACKETS = re.compile(r'\(([A-Za-z]+)\)')
_SET = re.compile(r'\\\{([^][(){}\\]*)\\\}')
_BRACKET = re.compile(r'[][(){}\\]')
_SCRIPT = re.compile(r'([_^])\{(\w)\}')
_SEPARATOR = re.compile(r',(?![0-9]{3}(?![0-9]))|;| and | or ')  # not the comma of 1,000


def pooled_answer(response: str) -> str:
  r"""The final answer of a free text, spelled so that equal answers mostly come out the same.

  `\frac12`, `0.5`, `x = 1/2` and `2/4 cm` are all `1/2`, `50\%` is `50`, `(B)` is `b`; sets and lists without brackets are
  sorted. It takes no algebra: equal formulas of another form stay apart. And it does not look at the gold answer, which would
  gather the votes of right answers alone.

  Args:
    response: any text.

  Returns:
    The answer; '' where the text states none.
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
  """A number as a reduced fraction, anything else without case and the spaces and braces that mean nothing."""
  left, equals, right = answer.rpartition('=')
  if equals and (_VARIABLE.fullmatch(left) or not any(map(str.isalpha, _OPERATION.sub('', left)))):
    answer = right.strip()  # of `x = 5` and of `2 + 3 = 5`
  if word := _WORD_IN_BRACKETS.fullmatch(answer):
    answer = word[1]
  answer = strip_unit(answer)
  number = parse_number(answer)
  if number is None:
    return _SCRIPT.sub(r'\1\2', squeeze(answer)).replace('bmatrix', 'pmatrix').casefold()
  return str(number.value)

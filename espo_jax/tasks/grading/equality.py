"""Decides whether two answers are equal if that needs no computer algebra: numbers, words, choices, lists of numbers."""

import re
from typing import NamedTuple

from espo_jax.tasks.grading.quantifiers import same_letter, without_quantifiers
from espo_jax.tasks.grading.quantities import Number, parse_number, same_number, strip_unit, variables, written_out
from espo_jax.tasks.grading.spelling import spell, squeeze

MAX_NESTING = 24  # the most levels of brackets; the time of the algebra's parser is exponential in them

_NAME = re.compile(r"\(?(?:the |an? )?([A-Za-z]+(?:[ '-][A-Za-z]{2,})*)\)?", re.IGNORECASE)
_WRAPPED = re.compile(r'\\(?:text|mbox|mathrm|textbf)')
_LABELLED = re.compile(r'(?:\(([A-J])\)|([A-J])[).:])\s*(\S.*)')
_BASED = re.compile(r'([0-9A-F]+)(?: ?_ ?(?:\{ ?([0-9]{1,2}) ?\}|([0-9]{1,2}))| \(?(?:in )?base ([0-9]{1,2})\)?)')
_PLUS_MINUS = re.compile(r'\\pm(?![A-Za-z])')
_SUBSCRIPT = re.compile(r'[0-9] ?_')
_EQUALS = re.compile(r'(?<![<>!:\\])=')
_LEFT_SIDE = re.compile(r'\\?[A-Za-z]+(?:_(?:[0-9A-Za-z]|\{[0-9A-Za-z]+\}))?(?:\([A-Za-z0-9, ]+\))?')
_LEAD = re.compile(r'^(?:[A-Za-z] ?\\in|\\approx)(?![A-Za-z]) ?')
_TIME = re.compile(
  r'(?<![0-9:])(?P<hour>[0-9]{1,2}) ?: ?(?P<minute>[0-9]{2})(?![0-9:])(?: ?(?P<half>[APap])\.? ?[Mm](?![A-Za-z]))?'
)
_RANGE = re.compile(r'([0-9]+(?:[.,][0-9]+)*) ?- ?([0-9]+(?:[.,][0-9]+)*)')
_COMMA = r',(?![0-9]{3}(?![0-9]))'  # outside of brackets 1,234 is a number; within, it may be the point (1,234)
_SEPARATOR = re.compile(rf'{_COMMA}|;| (?:and|or) ')
_MARK = r'\\[{}]|[][(){}]|\\[A-Za-z]+|\\.|;| (?:and|or)(?= )|'
_MARKS_INSIDE, _MARKS_OUTSIDE = re.compile(_MARK + ','), re.compile(_MARK + _COMMA)


class Undecided(NamedTuple):
  """Two answers that differ as written, and that only computer algebra can compare."""

  prediction: str
  answer: str


class _Items(NamedTuple):
  """A list and the brackets around it; '' for no brackets and for braces, because a set is often written without braces."""

  opening: str
  items: list[str]
  closing: str


def same_answer(prediction: str, answer: str) -> bool | Undecided:
  """Compares an answer with the gold answer.

  Args:
    prediction: The final answer of a response, as `answers.final_answer` returns it.
    answer: The gold answer.

  Returns:
    True if they are equal, False if not, and both in canonical spelling if the decision needs computer algebra.
  """
  wrapped = bool(_WRAPPED.search(answer))
  prediction, answer = _unlabelled(spell(prediction), spell(answer)), spell(answer)
  if not prediction or not answer:
    return False
  if squeeze(prediction) == squeeze(answer):
    return True
  stated, gold = without_quantifiers(prediction), without_quantifiers(answer)
  renamed = same_letter(stated, gold)
  if renamed is None:
    return False
  prediction, answer = renamed, gold.answer
  prediction, answer = _sides(_LEAD.sub('', prediction), _LEAD.sub('', answer))
  if not prediction:
    return False
  if (same := _as_times(prediction, answer)) is not None:
    return same
  prediction, answer = map(_both_signs, _without_units(prediction, answer))
  if squeeze(prediction) == squeeze(answer):
    return True
  for decide in (_as_ranges, _as_numbers, _as_digits, _as_lists):
    equal = decide(prediction, answer)
    if equal is not None:
      return equal
  equal = _as_names(prediction, answer, wrapped)
  if equal is None and _nesting(prediction) <= MAX_NESTING:
    return Undecided(_written_out(prediction), _written_out(answer))
  return bool(equal)


def same_name(statement: str, answer: str) -> bool:
  """Returns whether a whole statement equals a gold answer in words, such as `Evelyn`, `(B)` or `the ellipse`."""
  gold = _name(spell(answer))
  return gold is not None and _name(spell(statement)) == gold


def _unlabelled(prediction: str, answer: str) -> str:
  """Splits `(B) 18`: returns B if the gold answer is a choice, and 18 otherwise."""
  match = _LABELLED.fullmatch(prediction)
  if match is None:
    return prediction
  return (match[1] or match[2]) if re.fullmatch(r'\(?[A-J]\)?', answer) else match[3]


def _sides(prediction: str, answer: str) -> tuple[str, str]:
  """Drops `x =` from an answer if the other has none.

  The answer of a chain of equations is its last side. It has no answer if two of its numbers differ.
  """
  chain, gold = _EQUALS.split(prediction), _EQUALS.split(answer)
  if len(chain) > 1 and len(gold) == 1 and not _SEPARATOR.search(prediction):
    sides = [strip_unit(side.strip()) for side in chain]
    numbers = [number for number in map(parse_number, sides) if number is not None]
    if any(not same_number(number, numbers[0], rounded=1) for number in numbers):
      return '', answer
    return (sides[0] if _LEFT_SIDE.fullmatch(sides[-1]) and parse_number(sides[0]) else sides[-1]), answer
  if len(gold) == 2 and (len(chain) == 1 or squeeze(chain[0]) == squeeze(gold[0])) and _LEFT_SIDE.fullmatch(gold[0].strip()):
    return chain[-1].strip(), gold[1].strip()
  return prediction, answer


def _without_units(prediction: str, answer: str) -> tuple[str, str]:
  """Strips the units, but not a letter that the other side has as a variable."""
  stripped = strip_unit(prediction), strip_unit(answer)
  for mine, rest, other in ((prediction, stripped[0], stripped[1]), (answer, stripped[1], stripped[0])):
    if variables(mine.removeprefix(rest)) & variables(other):
      return prediction, answer
  return stripped


def _as_times(prediction: str, answer: str) -> bool | None:
  """Compares times of day; None unless the gold answer is one with `am` or `pm`. The algebra would read a ratio."""
  gold = _TIME.fullmatch(answer.strip(' .'))
  if gold is None or not gold['half']:
    return None
  stated = {(int(time['hour']), time['minute'], (time['half'] or '').lower()) for time in _TIME.finditer(prediction)}
  if len(stated) != 1:
    return False
  ((hour, minute, half),) = stated
  return (hour, minute) == (int(gold['hour']), gold['minute']) and half in ('', gold['half'].lower())


def _as_ranges(prediction: str, answer: str) -> bool | None:
  """Compares ranges such as `11-13` by their ends; None unless the gold answer is one. The algebra would subtract."""
  gold, stated = _RANGE.fullmatch(answer), _RANGE.fullmatch(prediction)
  if gold is None:
    return None
  return stated is not None and [*map(parse_number, gold.groups())] == [*map(parse_number, stated.groups())]


def _both_signs(text: str) -> str:
  r"""Writes an item `a \pm b` as two items, because the algebra reads this sign only at the top level of a formula."""
  if not _PLUS_MINUS.search(text):
    return text
  listed = _items(text) or _Items('', [text], '')
  items = [
    version
    for item in listed.items
    for version in ([_PLUS_MINUS.sub(sign, item) for sign in '+-'] if len(_PLUS_MINUS.findall(item)) == 1 else [item])
  ]
  return f'{listed.opening}{", ".join(items)}{listed.closing}'


def _as_numbers(prediction: str, answer: str) -> bool | None:
  gold = parse_number(answer)
  if gold is None:
    return None
  number = parse_number(prediction)
  if number is not None:
    return same_number(number, gold)
  listed = _items(prediction)
  if listed is not None:  # `0.5 or 1/2` is a single answer
    numbers = None if listed.opening else _numbers(listed.items)
    return numbers is not None and all(same_number(number, gold) for number in numbers)
  return False if _name(prediction) else None


def _as_digits(prediction: str, answer: str) -> bool | None:
  """Compares numbers with a base subscript: equal digits, and equal bases if both have one; None for other answers."""
  p, a = _BASED.fullmatch(prediction), _BASED.fullmatch(answer)
  if not p and not a:
    return False if _SUBSCRIPT.search(prediction) else None  # the algebra would ignore the subscript
  digits = [match[1] if match else text.replace(' ', '') for match, text in ((p, prediction), (a, answer))]
  bases = {next(filter(None, match.groups()[1:])) for match in (p, a) if match}
  return digits[0] == digits[1] and len(bases) == 1


def _as_lists(prediction: str, answer: str) -> bool | None:
  """Compares lists of numbers: in order within `()` and `[]`, in any order otherwise; None for other answers."""
  p, a = _items(prediction), _items(answer)
  if p is None or a is None:
    return None
  if p.opening and a.opening and (p.opening, p.closing) != (a.opening, a.closing):
    return False
  if (a.opening and '{' in prediction[:2]) or (p.opening and '{' in answer[:2]):
    return False
  if len(p.items) != len(a.items):
    return None  # a set may have a member twice
  predicted, gold = [_numbers(side.items) for side in (p, a)]
  if predicted is None or gold is None:
    return None
  if not p.opening and not a.opening:
    predicted, gold = [sorted(side, key=lambda number: number.value) for side in (predicted, gold)]
  return all(map(same_number, predicted, gold))


def _written_out(text: str) -> str:
  """Returns an answer, or a list of answers, with powers of ten written out, because the algebra does not read 1.5e-3."""
  listed = _items(text) or _Items('', [text], '')
  items = [written_out(item) for item in listed.items]
  return text if items == listed.items else f'{listed.opening}{", ".join(items)}{listed.closing}'


def _numbers(items: list[str]) -> list[Number] | None:
  """Reads the numbers of a list, without units and `x =`; None unless all items are numbers."""
  numbers = [parse_number(strip_unit(_EQUALS.split(item)[-1].strip())) for item in items]
  return None if None in numbers else [number for number in numbers if number is not None]


def _as_names(prediction: str, answer: str, wrapped: bool) -> bool | None:
  r"""Compares words; None for other answers. A short word outside of `\text{}` may be a product of variables."""
  gold = _name(answer)
  if gold is None:
    return None
  name = _name(prediction)
  if name is not None and (name == gold or len(name) == len(gold) == 1):
    return name == gold
  return False if wrapped or len(gold) > 3 else None


def _name(text: str) -> str | None:
  match = _NAME.fullmatch(text)
  return match[1].casefold() if match else None


def _items(text: str) -> _Items | None:
  """Splits a list at its top level; None if the text is no list."""
  opening, closing = '', ''
  if text[:1] in ('(', '[') and text[-1:] in (')', ']'):
    opening, closing, body = text[0], text[-1], text[1:-1]
  elif text.startswith('\\{') and text.endswith('\\}'):
    body = text[2:-2]
  else:
    body = text
  items, depth, start = [], 0, 0
  for token in (_MARKS_OUTSIDE if body is text else _MARKS_INSIDE).finditer(body):
    if token[0] in ('(', '[', '{', '\\{'):
      depth += 1
    elif token[0] in (')', ']', '}', '\\}'):
      depth -= 1
      if depth < 0:  # the last bracket does not close the first one, as in a union or a product
        return None
    elif depth == 0 and token[0][0] in ',; ':
      items.append(body[start : token.start()].strip())
      start = token.end()
  items.append(body[start:].strip())
  items = [item for item in items if item]
  return _Items(opening, items, closing) if len(items) > 1 else None


def _nesting(text: str) -> int:
  """Returns the number of levels of brackets."""
  depth = deepest = 0
  for character in text:
    depth += (character in '([{') - (character in ')]}')
    deepest = max(deepest, depth)
  return deepest

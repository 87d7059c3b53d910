"""Equality of two answers where it needs no computer algebra: numbers, words, choices, lists of numbers."""

import re
from typing import NamedTuple

from espo_jax.tasks.grading.quantifiers import same_letter, without_quantifiers
from espo_jax.tasks.grading.quantities import Number, parse_number, same_number, strip_unit, written_out
from espo_jax.tasks.grading.spelling import spell, squeeze

MAX_NESTING = 24  # brackets within brackets; the algebra's parser takes exponential time on more

_NAME = re.compile(r"\(?(?:the |an? )?([A-Za-z]+(?:[ '-][A-Za-z]{2,})*)\)?", re.IGNORECASE)
_WRAPPED = re.compile(r'\\(?:text|mbox|mathrm|textbf)')
_LABELLED = re.compile(r'(?:\(([A-J])\)|([A-J])[).:])\s*(\S.*)')
_BASED = re.compile(r'([0-9A-F]+)(?: ?_ ?(?:\{ ?([0-9]{1,2}) ?\}|([0-9]{1,2}))| \(?(?:in )?base ([0-9]{1,2})\)?)')
_PLUS_MINUS = re.compile(r'\\pm(?![A-Za-z])')
_SUBSCRIPT = re.compile(r'[0-9] ?_')
_EQUALS = re.compile(r'(?<![<>!:\\])=')
_LEFT_SIDE = re.compile(r'\\?[A-Za-z]+(?:_(?:[0-9A-Za-z]|\{[0-9A-Za-z]+\}))?(?:\([A-Za-z0-9, ]+\))?')
_LEAD = re.compile(r'^(?:[A-Za-z] ?\\in|\\approx)(?![A-Za-z]) ?')
_COMMA = r',(?![0-9]{3}(?![0-9]))'  # outside of brackets, where 1,234 is a number; a point may be (1,234)
_SEPARATOR = re.compile(rf'{_COMMA}|;| (?:and|or) ')
_MARK = r'\\[{}]|[][(){}]|\\[A-Za-z]+|\\.|;| (?:and|or)(?= )|'
_MARKS_INSIDE, _MARKS_OUTSIDE = re.compile(_MARK + ','), re.compile(_MARK + _COMMA)


class Undecided(NamedTuple):
  """Two answers that differ as written; only algebra can tell whether they are equal."""

  prediction: str
  answer: str


class _Items(NamedTuple):
  """A list, and the brackets around it: '' for none and for braces, for a set is often written without."""

  opening: str
  items: list[str]
  closing: str


def same_answer(prediction: str, answer: str) -> bool | Undecided:
  """Compares an answer with the gold answer.

  Args:
    prediction: the final answer of a response, as `answers.final_answer` picks it.
    answer: the gold answer.

  Returns:
    Whether they are equal; the two in one spelling where that takes algebra.
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
  prediction, answer = _both_signs(strip_unit(prediction)), _both_signs(strip_unit(answer))
  if squeeze(prediction) == squeeze(answer):
    return True
  for decide in (_as_numbers, _as_digits, _as_lists):
    equal = decide(prediction, answer)
    if equal is not None:
      return equal
  equal = _as_names(prediction, answer, wrapped)
  if equal is None and _nesting(prediction) <= MAX_NESTING:
    return Undecided(_written_out(prediction), _written_out(answer))
  return bool(equal)


def same_name(statement: str, answer: str) -> bool:
  """Whether a whole statement is the gold answer in words: `Evelyn`, `(B)`, `the ellipse`."""
  gold = _name(spell(answer))
  return gold is not None and _name(spell(statement)) == gold


def _unlabelled(prediction: str, answer: str) -> str:
  """`(B) 18` is the choice B where the gold answer is a choice, and 18 where it is not."""
  match = _LABELLED.fullmatch(prediction)
  if match is None:
    return prediction
  return (match[1] or match[2]) if re.fullmatch(r'\(?[A-J]\)?', answer) else match[3]


def _sides(prediction: str, answer: str) -> tuple[str, str]:
  """Drops `x =` from the one that has it alone.

  A chain of equations states its last side, and nothing when its numbers contradict each other.
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


def _both_signs(text: str) -> str:
  r"""Writes an item `a \pm b` as two; the algebra reads the sign at the top of a formula only."""
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
  if listed is not None:  # `0.5 or 1/2` is one answer
    numbers = None if listed.opening else _numbers(listed.items)
    return numbers is not None and all(same_number(number, gold) for number in numbers)
  return False if _name(prediction) else None


def _as_digits(prediction: str, answer: str) -> bool | None:
  """Numbers with a base subscript: the same digits, and the same base where both name one."""
  p, a = _BASED.fullmatch(prediction), _BASED.fullmatch(answer)
  if not p and not a:
    return False if _SUBSCRIPT.search(prediction) else None  # which the algebra would overlook
  digits = [match[1] if match else text.replace(' ', '') for match, text in ((p, prediction), (a, answer))]
  bases = {next(filter(None, match.groups()[1:])) for match in (p, a) if match}
  return digits[0] == digits[1] and len(bases) == 1


def _as_lists(prediction: str, answer: str) -> bool | None:
  """Lists of numbers: in order within `()` and `[]`, in any order within `{}` and without brackets."""
  p, a = _items(prediction), _items(answer)
  if p is None or a is None:
    return None
  if p.opening and a.opening and (p.opening, p.closing) != (a.opening, a.closing):
    return False
  if (a.opening and '{' in prediction[:2]) or (p.opening and '{' in answer[:2]):
    return False
  if len(p.items) != len(a.items):
    return None  # a set may name a member twice
  predicted, gold = [_numbers(side.items) for side in (p, a)]
  if predicted is None or gold is None:
    return None
  if not p.opening and not a.opening:
    predicted, gold = [sorted(side, key=lambda number: number.value) for side in (predicted, gold)]
  return all(map(same_number, predicted, gold))


def _written_out(text: str) -> str:
  """The answer with its decimals, where it is one or a list of them, as the algebra reads them."""
  listed = _items(text) or _Items('', [text], '')
  items = [written_out(item) for item in listed.items]
  return text if items == listed.items else f'{listed.opening}{", ".join(items)}{listed.closing}'


def _numbers(items: list[str]) -> list[Number] | None:
  """The numbers of a list, without units and `x =`; None unless all are numbers."""
  numbers = [parse_number(strip_unit(_EQUALS.split(item)[-1].strip())) for item in items]
  return None if None in numbers else [number for number in numbers if number is not None]


def _as_names(prediction: str, answer: str, wrapped: bool) -> bool | None:
  """Words. Short ones may be products of variables, unless they are in a text wrapper."""
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
  """Splits a list at its top level; None for what is no list."""
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
      if depth < 0:  # the first bracket is not closed by the last: a union, a product
        return None
    elif depth == 0 and token[0][0] in ',; ':
      items.append(body[start : token.start()].strip())
      start = token.end()
  items.append(body[start:].strip())
  items = [item for item in items if item]
  return _Items(opening, items, closing) if len(items) > 1 else None


def _nesting(text: str) -> int:
  """How deep the brackets go."""
  depth = deepest = 0
  for character in text:
    depth += (character in '([{') - (character in ')]}')
    deepest = max(deepest, depth)
  return deepest

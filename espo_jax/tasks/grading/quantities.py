r"""Reads numbers and removes units: `1,234.50`, `-\frac{3}{4}`, `2 1/3`, `1.5 \times 10^{3}`, `2 million`, `50%`."""

import re
from fractions import Fraction
from typing import NamedTuple

UNIT_WORDS = 8  # the most words of a unit, such as `dollars per person per day`
ROUNDED = 6  # the fewest places of a rounded decimal
SIGNIFICANT = 4  # the fewest significant digits of a rounded decimal

_INTEGER = '(?:[0-9]{1,3}(?:[, ][0-9]{3})+(?![0-9])|[0-9]+)'
_DECIMAL = rf'(?:{_INTEGER}(?:\.[0-9]+)?|\.[0-9]+)'
_POWER_OF_TEN = r'\ ?(?:\\times|\\cdot)\ ?10\ ?\^\ ?(?:\{\ ?(?P<braced>[-+]?[0-9]{1,3})\ ?\}|(?P<power>[0-9](?![0-9])))'
_NUMBER = re.compile(
  rf"""(?P<sign>[-+]?)\ ?(?:
    (?P<whole>[0-9]+)\ ?(?:\\frac\{{\ ?(?P<mixed_top>[0-9]+)\ ?\}}\{{\ ?(?P<mixed_bottom>[0-9]+)\ ?\}}
      | (?<=\ )(?P<slash_top>[0-9]+)/(?P<slash_bottom>[0-9]+))
    | \\frac\ ?\{{\ ?(?P<top>-?{_DECIMAL})\ ?\}}\ ?\{{\ ?(?P<bottom>-?{_DECIMAL})\ ?\}}
    | (?P<numerator>{_DECIMAL})\ ?/\ ?(?P<denominator>{_DECIMAL})
    | (?P<decimal>{_DECIMAL})(?:{_POWER_OF_TEN}|[eE](?P<e>[-+]?[0-9]{{1,3}}))?
  )\ ?(?P<percent>%?)\ ?(?P<scale>[a-z]*)""",
  re.VERBOSE,
)
_POWER = re.compile(r'[0-9][eE]|10 ?\^')
_SCALES = {'': 1, 'hundred': 100, 'thousand': 10**3, 'million': 10**6, 'billion': 10**9, 'trillion': 10**12}

_TRAILING_WORD = re.compile(
  r'(?: |(?<=[0-9])(?=[A-Za-z]{2}))([A-Za-z]+(?: ?[-/.] ?[A-Za-z]+)*)\.?(?: ?\^ ?(?:\{[23]\}|[23]))?$'
)
_VALUE = re.compile(r'[0-9]|\\(?:pi|sqrt|frac)(?![A-Za-z])')
_VARIABLE = re.compile(r'(?<![A-Za-z\\])[A-Za-z](?![A-Za-z])')
_EQUALS_TO = re.compile(r'^.*[=:]')
_VALUE_END = re.compile(rf'(?:[0-9)}}\]%]|\\[a-z]+|{"|".join(filter(None, _SCALES))})$')


def _words(text: str) -> frozenset[str]:
  return frozenset(text.split())


_ABBREVIATIONS = _words(
  'm g s h l L km cm mm dm kg mg lb lbs oz ft in mi yd hr hrs min sec ms ml mL kmh mph kph sq cu pt qt gal deg rad '
  'kW W J N Pa Hz V A K C F'
)
# Words after a number that are no units, or that change its value.
_NO_UNITS = _words(
  'or nor and to through plus minus times over divided multiplied squared cubed sqrt mod base point half halves third thirds '
  'quarter quarters fourth fourths fifth fifths tenth tenths hundredth hundredths choose factorial power root between '
  'not than but either maybe perhaps pi theta alpha beta hundred thousand million billion trillion percent score if then sum '
  'union intersection'
)


class Number(NamedTuple):
  """A number that was read from text.

  Attributes:
    value: The exact value.
    places: The number of decimal places, 4 for 1.5e-3 and -3 for 5e3; None for a fraction.
    percent: Whether a percent sign follows.
  """

  value: Fraction
  places: int | None
  percent: bool


def parse_number(text: str) -> Number | None:
  """Reads a number without unit in canonical spelling; None if `text` is anything else."""
  match = _NUMBER.fullmatch(text)
  if match is None or match['scale'] not in _SCALES:
    return None
  part = match.groupdict()
  try:
    if part['whole'] is not None:
      value = int(part['whole']) + Fraction(
        int(part['mixed_top'] or part['slash_top']), int(part['mixed_bottom'] or part['slash_bottom'])
      )
      places = None
    elif part['decimal'] is not None:
      exponent = int(part['braced'] or part['power'] or part['e'] or 0)
      value = _read(part['decimal']) * Fraction(10) ** exponent
      places = len(part['decimal'].partition('.')[2]) - exponent
    else:
      value = _read(part['top'] or part['numerator']) / _read(part['bottom'] or part['denominator'])
      places = None
  except ZeroDivisionError:
    return None
  sign = -1 if part['sign'] == '-' else 1
  return Number(sign * value * _SCALES[part['scale']], places, part['percent'] == '%')


def same_number(a: Number, b: Number, rounded: int = ROUNDED) -> bool:
  """Returns whether two numbers are equal.

  The comparison is exact with two exceptions: 50% equals both 50 and 0.5, and a decimal equals a fraction that it rounds or
  truncates with enough digits.

  Args:
    a: A number.
    b: Another number.
    rounded: The fewest places of such a decimal; with 6, 0.333333 equals 1/3. It also needs `SIGNIFICANT` significant digits,
      so 0.000000 equals no small fraction.
  """
  if a.percent == b.percent:
    return _close(a, b, rounded)
  if b.percent:
    a, b = b, a
  return _close(a, b, rounded) or _close(a._replace(value=a.value / 100), b, rounded)


def written_out(text: str) -> str:
  """Writes 1.5e-3 as 0.0015, because in a formula e is Euler's number. Any other text is returned unchanged."""
  number = parse_number(text) if _POWER.search(text) else None
  if number is None or number.places is None or number.percent:
    return text
  places = max(number.places, 0)
  digits = str(abs(int(number.value * 10**places))).zfill(places + 1)
  return (
    f'{"-" if number.value < 0 else ""}{digits[: len(digits) - places]}{"." if places else ""}{digits[len(digits) - places :]}'
  )


def strip_unit(text: str) -> str:
  r"""Removes the unit after a value, as in `5 cm^2`, `18km` and `12 \pi square inches`; other texts are unchanged."""
  rest = text
  for _ in range(UNIT_WORDS):
    match = _TRAILING_WORD.search(rest)
    if match is None or not all(_is_unit(word, spaced=match[0][0] == ' ') for word in re.split(' ?[-/.] ?', match[1])):
      break
    if len(match[1]) == 1 and variables(_EQUALS_TO.sub('', rest[: match.start()])):
      break  # a letter among letters is one of them
    rest = rest[: match.start()]
  return rest if _VALUE_END.search(rest) and _VALUE.search(rest) else text


def variables(text: str) -> frozenset[str]:
  """Returns the letters of a text that stand alone, which are variables in a formula."""
  return frozenset(_VARIABLE.findall(text))


def _is_unit(word: str, spaced: bool) -> bool:
  return word in _ABBREVIATIONS or (spaced and len(word) > 2 and word.lower() not in _NO_UNITS)


def _read(decimal: str) -> Fraction:
  return Fraction(re.sub('[, ]', '', decimal))


def _close(a: Number, b: Number, rounded: int) -> bool:
  if a.value == b.value:
    return True
  if (a.places is None) == (b.places is None):
    return False
  places = a.places if a.places is not None else b.places
  if places is None or places < rounded:
    return False
  unit, decimal = Fraction(1, 10**places), a if a.places is not None else b
  return abs(a.value - b.value) < unit and abs(decimal.value) >= unit * 10 ** (min(rounded, SIGNIFICANT) - 1)

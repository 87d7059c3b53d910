r"""Decides whether two formulas are equal by computer algebra.

math-verify splits sets, tuples, intervals, matrices and equations into pairs of values, and this module compares the values. It
compares rational values exactly, and evaluates all others with a hundred digits more than the formulas have. math-verify's own
comparison rounds values to fifteen digits after the point, so that `\frac{1}{2^{60}}` and `\frac{1}{2^{61}}` are both 0.

Only `worker.py` imports this module, in a process of its own, because a formula may take unbounded time and memory.
"""

import math
import random
import re
from collections.abc import Callable, Iterator
from decimal import Decimal
from fractions import Fraction
from typing import Any

import sympy
from latex2sympy2_extended import NormalizationConfig, latex2sympy, normalize_latex
from latex2sympy2_extended.logic import And
from latex2sympy2_extended.sets import FiniteSet
from math_verify import grader as walker
from mpmath import libmp
from sympy.core import evalf
from sympy.core.function import AppliedUndef
from sympy.core.relational import Relational

from espo_jax.tasks.grading.quantities import Number, same_number

MAX_DIGITS = 100_000
MAX_BITS = 100_000  # the most bits of a value that is evaluated; larger ones are equal only if sympy says so at once
SPARE_BITS = 340  # a hundred digits in addition to those of the formulas
CERTAIN_BITS = 30  # a difference with so many correct bits is no rounding error
MOST_ROOT_BITS = 10_000  # sympy searches a rational root of a number up to this size; beyond, it takes seconds

# Units have been removed. math-verify's list of units would remove the variables of `5t` and `3m`.
_CONFIG = NormalizationConfig(basic_latex=True, units=False, malformed_operators=True, nits=True, boxed='none')
_DECIMAL = re.compile(r'[0-9]*\.[0-9]+')
# A number that a bracket follows: latex2sympy reads 2(3) as the mixed number 2 + 3.
_FACTORS = (
  re.compile(r'(?<![A-Za-z0-9_^.\\])(?<![_^] )[0-9]+(?:\.[0-9]+)?(?= ?\()'),
  re.compile(r'(?<=[0-9])\)(?= ?\([^,]*\Z)'),
)
_RATIONAL = (
  sympy.Add, sympy.Mul, sympy.Pow, sympy.factorial, sympy.Abs, sympy.floor, sympy.ceiling, sympy.Mod, sympy.Max, sympy.Min,
  sympy.UnevaluatedExpr,
)  # fmt: skip
_UNFINISHED = (sympy.Integral, sympy.Sum, sympy.Product, sympy.Limit, sympy.Derivative)
_GROWS = (sympy.factorial, sympy.gamma, sympy.binomial)
_EXPONENTIAL = (sympy.exp, sympy.sinh, sympy.cosh)
_HUNDREDTH = sympy.UnevaluatedExpr(sympy.Rational(1, 100))  # latex2sympy's percent sign
_FLOAT_DIGITS = 15  # the precision of sympy's decimals; a decimal that is a whole value has its written digits in addition
_RANGES = ((0.25, 0.9), (1.1, 3.0), (20.0, 100.0), (3.0, 8.0), (0.1, 0.5), (5.0, 15.0))  # of values for symbols
_COUNTS = (2, 5, 12, 7, 3, 10)  # values for symbols that stand for whole numbers

_written_alike = walker.sympy_compare_symbols
_simplified_alike = walker.sympy_symbolic_eq
_solved_alike = walker.sympy_solve_and_compare


def compare(prediction: str, answer: str) -> tuple[bool, str]:
  """Decides whether two formulas are equal.

  Args:
    prediction: The formula of the response, as `spelling.spell` returns it.
    answer: The gold answer, as `spelling.spell` returns it.

  Returns:
    The verdict and the status 'ok' or 'error'. An error means that the gold answer is no formula, or that a formula is nested
    too deeply.

  Raises:
    MemoryError: Memory ran out. The process should end, because the libraries' caches would stay.
  """
  real = not (walker.should_treat_as_complex(prediction) or walker.should_treat_as_complex(answer))  # for both formulas
  try:
    try:
      gold = _parse(answer, real)
      size = digits(gold)
    except (MemoryError, RecursionError):
      raise
    except Exception:
      return False, 'error'  # the gold answer is no formula
    stated = _parse(prediction, real)
    if max(size, digits(stated)) > MAX_DIGITS:
      return False, 'ok'  # the number is too long to compute; equal spellings were accepted before
    sides = [_tidied(side, _decimals(text), False) for side, text in ((gold, answer), (stated, prediction))]
    return walker.verify(*sides, timeout_seconds=None, allow_set_relation_comp=True, raise_on_error=True), 'ok'
  except MemoryError:
    raise
  except RecursionError:
    return False, 'error'
  except Exception:
    return False, 'ok'  # the prediction is no formula, or cannot be compared with the answer


def _parse(text: str, real: bool) -> Any:
  for factors in _FACTORS:
    text = factors.sub(r'\g<0>\\cdot ', text)
  return latex2sympy(normalize_latex(text, _CONFIG), is_real=real, normalization_config=None)


def digits(value: Any) -> float:
  """Estimates the number of digits of a value without computing it, because 9**9**9**9 would not end."""
  if hasattr(value, 'flat'):
    return sum(map(digits, value.flat()))  # a matrix
  if value.is_Rational:
    return math.log10(abs(value.p) * value.q + 1) + 1
  if value.is_Float:
    return _float_bits(value) * math.log10(2)
  inner = [digits(part) for part in value.args]
  if value.is_Pow:
    exponent = value.exp
    return max(inner[0], 1) * (abs(exponent) if exponent.is_Rational or exponent.is_Float else 10 ** min(inner[1], 9))
  if value.func.__name__ == 'factorial':
    return inner[0] * 10 ** min(inner[0], 9)
  return sum(inner)


# -------------------------------------------------------------------------------------------------------------- two values


def same_value(gold: Any, stated: Any, *_: Any) -> bool:
  """Returns whether two expressions, or two matrices of expressions, are equal for all values of their symbols.

  A symbol under a root or in a logarithm of `gold` stands for a positive number. A symbol in the exponent of a symbol stands
  for a whole number. 50% equals both 50 and 0.5. If one side is a single decimal, it equals the numbers that it rounds or
  truncates, as in `quantities.same_number`.
  """
  if isinstance(gold, (sympy.MatrixBase, sympy.MatrixExpr)) or isinstance(stated, (sympy.MatrixBase, sympy.MatrixExpr)):
    gold, stated = gold.doit(), stated.doit()
    if not (isinstance(gold, sympy.MatrixBase) and isinstance(stated, sympy.MatrixBase)):
      return bool(gold == stated)
    return gold.shape == stated.shape and all(map(same_value, gold.flat(), stated.flat()))
  if not (isinstance(gold, sympy.Expr) and isinstance(stated, sympy.Expr)):
    return False
  parts = [_without_percent(side) for side in (gold, stated)]
  if (parts[0] is None) != (parts[1] is None):
    return any(
      same_value(*(side if part is None else part / scale for side, part in zip((gold, stated), parts, strict=True)))
      for scale in (1, 100)
    )
  if parts[0] is not None:
    gold, stated = parts
  if gold.is_Float != stated.is_Float and not (gold.has(sympy.Float) and stated.has(sympy.Float)):
    decimal, other = (gold, stated) if gold.is_Float else (stated, gold)
    return _rounds(decimal, exact(other))
  return _same(exact(gold), exact(stated))


def exact(value: sympy.Expr) -> sympy.Expr:
  """Replaces decimals by fractions and computes the rational parts of a value; other parts stay as they are written."""

  def compute(part: sympy.Expr) -> sympy.Expr:
    if part.is_Float:
      written = Fraction(Decimal(str(part)))
      return sympy.Rational(written.numerator, written.denominator)
    if isinstance(part, _RATIONAL) and all(inner.is_Rational for inner in part.args) and not _is_large_root(part):
      computed = part.func(*part.args)
      return computed if computed.is_Rational else part
    return part

  return _mapped(value, compute)


def _mapped(value: Any, change: Callable[[Any], Any]) -> Any:
  """Applies a function to every part of an expression, innermost first, without evaluating the expression."""
  if not value.args or isinstance(value, _UNFINISHED):
    return change(value)
  parts = [_mapped(part, change) for part in value.args]
  if any(part is not old for part, old in zip(parts, value.args, strict=True)):
    try:
      value = value.func(*parts, evaluate=False)
    except TypeError:  # not every function takes `evaluate`
      value = value.func(*parts)
  return change(value)


def _tidied(value: Any, decimals: dict[Fraction, str], inner: bool) -> Any:
  """Makes the values of an answer exact. A decimal that is a whole value may be rounded and keeps its digits unless `inner`."""
  if isinstance(value, sympy.MatrixBase):
    return value.applyfunc(lambda entry: _tidied(entry, decimals, inner))
  if isinstance(value, (And, FiniteSet)):
    return type(value)(*(_tidied(part, decimals, inner) for part in value._unsorted_args))
  if isinstance(value, Relational):
    return value.func(*(_tidied(side, decimals, True) for side in value.args), evaluate=False)
  if isinstance(value, sympy.Interval):
    ends = [_tidied(end, decimals, inner) for end in value.args[:2]]
    return sympy.Interval(*ends, value.left_open, value.right_open)
  if isinstance(value, sympy.Tuple):
    return sympy.Tuple(*(_tidied(part, decimals, inner) for part in value))
  if isinstance(value, (sympy.Union, sympy.Intersection, sympy.Complement)):
    return value.func(*(_tidied(part, decimals, True) for part in value.args), evaluate=False)
  if not isinstance(value, sympy.Expr) or isinstance(value, sympy.MatrixExpr):
    return value
  percent = _without_percent(value)
  if percent is not None:
    return sympy.Mul(_tidied(percent, decimals, inner), _HUNDREDTH, evaluate=False)
  if value.is_Float and not inner:
    written = decimals.get(abs(Fraction(Decimal(str(value)))), '')
    return sympy.Float(('-' if value < 0 else '') + written, _FLOAT_DIGITS + _significant(written)) if written else value
  return exact(value)


def _decimals(text: str) -> dict[Fraction, str]:
  """Returns the decimals of a formula as they are written, by value; 0.50 keeps its zero."""
  return {Fraction(token): token for token in map(str, _DECIMAL.findall(text.replace(',', '')))}


def _significant(decimal: str) -> int:
  return len(decimal.replace('.', '').lstrip('0'))


def _is_large_root(value: sympy.Expr) -> bool:
  return bool(value.is_Pow and not value.exp.is_Integer and _bits(value.base, {}) > MOST_ROOT_BITS)


def _without_percent(value: sympy.Expr) -> sympy.Expr | None:
  return value.args[0] if value.is_Mul and len(value.args) == 2 and value.args[1] == _HUNDREDTH else None


def _rounds(decimal: sympy.Float, value: sympy.Expr) -> bool:
  """Returns whether a decimal equals a value, or rounds or truncates it."""
  size = Decimal(str(decimal))
  digits_written = libmp.prec_to_dps(decimal._prec) - _FLOAT_DIGITS
  written = Number(Fraction(size), digits_written - 1 - size.adjusted() if size else 0, False)
  if value.is_Rational:
    return same_number(written, Number(Fraction(value.p, value.q), None, False))
  bits = SPARE_BITS + _bits(value, {})
  if value.free_symbols or bits > MAX_BITS:
    return False
  real, imaginary, accuracy, _ = evalf.evalf(value, math.ceil(bits), {'maxprec': SPARE_BITS})
  if not real or imaginary or accuracy < CERTAIN_BITS:
    return False
  return same_number(written, Number(Fraction(*libmp.to_rational(real)), None, False))


# ----------------------------------------------------------------------------------------------------- by their evaluation


def _same(gold: sympy.Expr, stated: sympy.Expr) -> bool:
  """Returns whether two exact expressions are equal, where `i` may be the imaginary unit unless `j` or `k` is beside it."""
  if _same_at_points(gold, stated):
    return True
  symbols = gold.free_symbols | stated.free_symbols
  units = {symbol: sympy.I for symbol in symbols if symbol.name == 'i'}
  if not units or {symbol.name for symbol in symbols} & {'j', 'k'}:
    return False
  return _same_at_points(gold.subs(units), stated.subs(units))


def _same_at_points(gold: sympy.Expr, stated: sympy.Expr) -> bool:
  """Returns whether two exact expressions are equal at every point that is tried."""
  if gold.is_Rational and stated.is_Rational:
    return bool(gold == stated)
  gold, stated = (side.doit() if side.has(*_UNFINISHED) else side for side in (gold, stated))
  unknown = {part: sympy.Dummy(real=True) for part in gold.atoms(AppliedUndef) | stated.atoms(AppliedUndef)}
  gold, stated = (_mapped(side, lambda part: unknown.get(part, part)) for side in (gold, stated))
  symbols = sorted(gold.free_symbols | stated.free_symbols, key=str)
  positive = {symbol for part in sympy.preorder_traversal(gold) for symbol in _taken_as_positive(part)}
  whole = {symbol for side in (gold, stated) for part in sympy.preorder_traversal(side) for symbol in _taken_as_whole(part)}
  if all(symbol.is_real for symbol in symbols) and not gold.has(sympy.I) and not stated.has(sympy.I):
    gold, stated = _mapped(gold, _real_root), _mapped(stated, _real_root)
  difference = sympy.Add(gold, sympy.Mul(-1, stated, evaluate=False), evaluate=False)
  tried = []
  for point in _points(symbols, positive, whole):
    size = _bits(difference, point)
    if size <= MAX_BITS:
      tried.append(_vanishes(difference, point, size))
      if tried[-1] is False:
        return False
  if tried.count(True) >= min(2, 1 + len(symbols)):
    return True
  return bool(gold.doit() == stated.doit()) or (bool(tried) and bool(_simplified_alike(gold, stated)))


def _vanishes(difference: sympy.Expr, point: dict[sympy.Symbol, sympy.Expr], size: float) -> bool | None:
  """Returns whether a difference is zero for these values of the symbols; None if the evaluation fails."""
  for bits in (CERTAIN_BITS + 70, SPARE_BITS + math.ceil(size)):
    try:
      value = evalf.evalf(difference, bits, {'maxprec': CERTAIN_BITS, 'subs': point})
    except (NotImplementedError, ValueError, ArithmeticError, TypeError, AttributeError):
      return None
    if not isinstance(value, tuple) or any(part in (libmp.fnan, libmp.finf, libmp.fninf) for part in value[:2]):
      return None
    if any(part and accuracy >= CERTAIN_BITS for part, accuracy in ((value[0], value[2]), (value[1], value[3]))):
      return False
  return True


def _points(symbols: list[sympy.Symbol], positive: set[sympy.Symbol], whole: set[sympy.Symbol]) -> Iterator[dict[Any, Any]]:
  """Yields small and large values for the symbols, which are the same in every call."""
  rng = random.Random(0)
  for number in range(len(_RANGES) if symbols else 1):
    point = {}
    for place, symbol in enumerate(symbols):
      low, high = _RANGES[(number + place) % len(_RANGES)]
      value = sympy.Rational(rng.randrange(int(low * 2**20), int(high * 2**20)), 2**20)
      sign = 1 if symbol in positive else rng.choice((-1, 1))
      if symbol in whole:
        value = sympy.Integer(_COUNTS[(number + place) % len(_COUNTS)])
      elif symbol.is_real is False and symbol not in positive:
        value = sign * value + sympy.I * sympy.Rational(rng.randrange(-(2**21), 2**21), 2**20)
      else:
        value *= sign
      point[symbol] = value
    yield point


def _taken_as_positive(part: sympy.Basic) -> set[sympy.Symbol]:
  """Returns the symbols in the argument of a root or a logarithm."""
  if isinstance(part, sympy.log):
    return part.free_symbols
  rooted = part.is_Pow and any(not number.is_Integer for number in part.exp.atoms(sympy.Rational))
  return part.base.free_symbols if rooted else set()


def _taken_as_whole(part: sympy.Basic) -> set[sympy.Symbol]:
  """Returns the symbols in the argument of a factorial or the like, and in an exponent whose base may be negative."""
  if isinstance(part, _GROWS):
    return part.free_symbols
  return part.exp.free_symbols if part.is_Pow and (part.base.free_symbols or part.base.is_negative) else set()


def _real_root(part: sympy.Expr) -> sympy.Expr:
  """Replaces an odd root of a negative number, which is complex in sympy, by the real root."""
  if not (part.is_Pow and part.exp.is_Rational and part.exp.q % 2 and part.exp.q > 1) or part.base.is_positive:
    return part
  size = sympy.Abs(part.base, evaluate=False)
  if part.exp.p % 2 == 0:
    return sympy.Pow(size, part.exp, evaluate=False)
  return sympy.Mul(part.base, sympy.Pow(size, part.exp - 1, evaluate=False), evaluate=False)


def _bits(value: Any, point: dict[sympy.Symbol, sympy.Expr]) -> float:
  """Returns an upper estimate of the bits of a value before and after the point, by which its terms may differ in size."""
  if value in point:
    return abs(math.log2(abs(complex(point[value])))) + 1
  if value.is_Rational:
    return value.p.bit_length() + value.q.bit_length()
  if value.is_Float:
    return _float_bits(value)
  inner = [_bits(part, point) for part in value.args]
  if value.is_Pow:
    return max(inner[0], 1) * _size(point.get(value.exp, value.exp), inner[1]) + inner[1]
  if isinstance(value, _EXPONENTIAL):
    return 2 * _size(point.get(value.args[0], value.args[0]), inner[0]) + inner[0]
  if isinstance(value, _GROWS):
    return max(inner) * _size(point.get(value.args[0], value.args[0]), max(inner))
  if value.is_Add:
    return max(inner) + len(inner)
  return sum(inner) + 2


def _size(value: sympy.Expr, bits: float) -> float:
  """Returns an upper bound on the size of a value with so many bits."""
  return abs(complex(value)) if value.is_number and not value.args and bits < 1_000 else 2.0 ** min(bits, 1_000)


def _float_bits(value: sympy.Float) -> float:
  _, mantissa, exponent, count = value._mpf_
  return abs(exponent + count) + value._prec if mantissa else 1


# ---------------------------------------------------------------------------------------------------------- two equations


def _same_solutions(gold: Any, stated: Any, *precision: int) -> bool:
  """Returns whether two relations hold for the same values of their symbols."""
  if isinstance(gold, sympy.Eq) and isinstance(stated, sympy.Eq) and _proportional(gold, stated):
    return True
  return bool(_solved_alike(gold, stated, *precision))


def _proportional(gold: sympy.Eq, stated: sympy.Eq) -> bool:
  """Returns whether the difference of one equation's sides is a multiple of the other equation's."""
  sides = [sympy.Add(side.lhs, sympy.Mul(-1, side.rhs, evaluate=False), evaluate=False) for side in (gold, stated)]
  if not all(isinstance(part, sympy.Expr) for side in (gold, stated) for part in side.args):
    return False
  symbols = sorted(gold.free_symbols | stated.free_symbols, key=str)
  point = next(_points(symbols, set(symbols), set()))
  there = [_mapped(side, lambda part: point.get(part, part)) for side in sides]
  if any(_bits(value, {}) > MAX_BITS or _vanishes(value, {}, _bits(value, {})) is not False for value in there):
    return False
  return _same(*(exact(sympy.Mul(side, factor, evaluate=False)) for side, factor in zip(sides, reversed(there), strict=True)))


def _solutions(relation: Any, symbols: Any) -> Any:
  """Returns sympy's solutions. Without any it raises an error, because two equations without solutions need not be equal."""
  found = sympy.solve(relation, symbols)
  if found == []:
    raise ValueError('no solution is known')
  return found


# math-verify calls these functions for each pair of values or relations.
walker.sympy_numeric_eq = same_value
walker.sympy_symbolic_eq = lambda gold, stated: False  # `same_value` has decided already
walker.sympy_compare_symbols = lambda gold, stated: _written_alike(gold, stated) or same_value(gold, stated)
walker.sympy_solve_and_compare = _same_solutions
walker.solve = _solutions

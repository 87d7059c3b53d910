"""A tool: the policy calls a calculator in its own format, and the value comes back as an observation."""

import ast
import json
import operator
import re
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np

from espo_jax.environments.environment import Step
from espo_jax.environments.registered import register
from espo_jax.registry import source
from espo_jax.tasks.reasoning import after_thought, one_spelling
from espo_jax.tasks.task import Problem, check_probability

INSTRUCTION = (
  'You may use a calculator. To call it, write {"name": "calculator", "arguments": {"expression": "12 * (3 + 4)"}} '
  'and end your turn. Its result follows.'
)
_LONGEST = 1_000  # the most characters of an expression
_MOST_BITS = 4_096  # of the numerator and the denominator of every value
_WRITTEN = re.compile(r'[\d(][\d\s.()+*/-]*[\d)]')  # an expression in the text of a problem
_BINARY: dict[type, Callable[[Fraction, Fraction], Any]] = {
  ast.Add: operator.add,
  ast.Sub: operator.sub,
  ast.Mult: operator.mul,
  ast.Div: operator.truediv,
  ast.FloorDiv: operator.floordiv,
  ast.Mod: operator.mod,
  ast.Pow: lambda base, exponent: _power(base, exponent),
}
_UNARY: dict[type, Callable[[Fraction], Fraction]] = {ast.UAdd: operator.pos, ast.USub: operator.neg}


class Calculator:
  """Computes the expression of a tool call. A turn without a call is the answer, which the task's verifier judges.

  A call is a JSON object with an `expression`, alone or under `arguments` or `parameters`. Qwen, Llama and DeepSeek write such
  objects, each with other marks around them. Where a turn closes a thought, only the text behind it is read.

  Args:
    call: A regular expression whose first group is the expression of a call, in place of JSON; '' for JSON.
    instruction: The text behind the problem that says how to call; '' for none.
    calls: The probability that the expert calls with the longest expression of the problem, as JSON, before it answers.
  """

  role = 'tool'
  graded = True

  def __init__(self, *, call: str = '', instruction: str = INSTRUCTION, calls: float = 1.0) -> None:
    """Stores the options."""
    check_probability('environment.calls', calls)
    self._calls, self._problem, self._called = calls, '', False
    self._call, self._instruction = re.compile(call) if call else None, instruction
    if self._call is not None and not self._call.groups:
      raise ValueError(f'environment.call = {call!r}: no group is the expression; fix: parentheses around it')

  def reset(self, problem: Problem, seed: int) -> str:
    """Poses the problem with the instruction."""
    self._problem, self._called = problem.prompt, False
    return f'{problem.prompt}\n{self._instruction}' if self._instruction else problem.prompt

  def step(self, action: str, correct: float | None) -> Step:
    """Returns the value of the first call, or ends the episode."""
    assert correct is not None
    expression = called(after_thought(one_spelling(action)), self._call)
    if expression is None:
      return Step('', correct, True)
    self._called = True
    return Step(calculated(expression), 0.0, False)

  def expert(self, rng: np.random.Generator) -> str | None:
    """Returns a call, or None where the expert answers."""
    expression = max(_WRITTEN.findall(self._problem), key=len, default='')
    if self._called or not expression or rng.random() >= self._calls:
      return None
    return json.dumps({'expression': expression})


register('calculator')(source('ours')(Calculator))


def called(text: str, call: re.Pattern[str] | None = None) -> str | None:
  """Returns the expression of the first call in a text; None if it has none.

  Args:
    text: The text of a turn.
    call: The pattern whose first group is the expression; None for a JSON object.
  """
  if call is not None:
    match = call.search(text)
    return match[1] if match else None
  for brace in re.finditer(r'\{', text):
    try:
      found = json.JSONDecoder().raw_decode(text, brace.start())[0]
    except (ValueError, RecursionError):
      continue
    assert isinstance(found, dict)  # it begins with a brace
    for where in (found, found.get('arguments'), found.get('parameters')):
      if isinstance(where, dict) and isinstance(where.get('expression'), str):
        return where['expression']
  return None


def calculated(expression: str) -> str:
  """Returns the value of an arithmetic expression as text, or `error: ` and what is wrong with it.

  Numbers are exact fractions. A value that is no whole number is written as a decimal with 12 significant digits.
  """
  try:
    if len(expression) > _LONGEST:
      raise ValueError(f'more than {_LONGEST} characters')
    value = _value(ast.parse(expression.strip(), mode='eval').body)
    return str(value.numerator) if value.denominator == 1 else f'{float(value):.12g}'
  except ZeroDivisionError:
    return 'error: division by zero'
  except (SyntaxError, ValueError, OverflowError, RecursionError, MemoryError) as error:
    return f'error: {error.msg if isinstance(error, SyntaxError) else error}'


def _value(node: ast.AST) -> Fraction:
  """Returns the value of a part of an expression. Anything but numbers and arithmetic is a ValueError."""
  if isinstance(node, ast.Constant) and type(node.value) in (int, float):
    return _bounded(Fraction(repr(node.value)))
  if isinstance(node, ast.UnaryOp) and type(node.op) in _UNARY:
    return _UNARY[type(node.op)](_value(node.operand))
  if isinstance(node, ast.BinOp) and type(node.op) in _BINARY:
    return _bounded(Fraction(_BINARY[type(node.op)](_value(node.left), _value(node.right))))
  raise ValueError('only numbers, + - * / // % ** and parentheses')


def _power(base: Fraction, exponent: Fraction) -> Fraction:
  if exponent.denominator != 1:
    raise ValueError('an exponent must be whole')
  if abs(exponent) * max(base.numerator.bit_length(), base.denominator.bit_length()) > _MOST_BITS:
    raise ValueError('too large')
  return base ** int(exponent)


def _bounded(value: Fraction) -> Fraction:
  if max(value.numerator.bit_length(), value.denominator.bit_length()) > _MOST_BITS:
    raise ValueError('too large')
  return value

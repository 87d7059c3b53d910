"""Expressions over registered rewards: `'hmpo'`, `'correct + 0.5 * overlong'`, `'hmpo & format'`."""

import ast
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from espo_jax.registry import chosen, inputs
from espo_jax.rewards.placement import next_counted
from espo_jax.rewards.registered import REGISTRY
from espo_jax.types import takes_numpy

_OPERATORS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
  ast.Add: lambda a, b: a + b,
  ast.Mult: lambda a, b: a * b,
  ast.BitAnd: lambda a, b: jnp.where(b > 0, a, 0.0),  # a gate
}
_NODES = (ast.Expression, ast.Name, ast.Load, ast.BinOp, ast.Constant, *_OPERATORS)


def names(expression: str) -> tuple[str, ...]:
  """Returns the names of the rewards in an expression.

  Raises:
    ValueError: The text is not an expression over registered rewards.
  """
  nodes = list(ast.walk(_parsed(expression)))
  numbers = [node.value for node in nodes if isinstance(node, ast.Constant)]
  found = [node.id for node in nodes if isinstance(node, ast.Name)]
  if not found or not all(isinstance(node, _NODES) for node in nodes) or any(type(x) not in (int, float) for x in numbers):
    raise ValueError(f"reward.name = {expression!r}: not understood; fix: rewards, numbers, '+', '*', '&' and parentheses")
  for name in found:
    REGISTRY.find(name, expression)
  return tuple(dict.fromkeys(found))


@takes_numpy
def evaluate(expression: str, options: Mapping[str, Any], seen: Mapping[str, Any]) -> tuple[Array, dict[str, Array]]:
  """Returns the value of an expression, and what each reward in it gives to each row, `float[P, G]`, by name.

  The value is `float[P, G]`, or `float[P, G, T]` if it is per token.

  | operation | value | if one side is per token, the other side is placed on |
  |---|---|---|
  | `a + b` | the sum | the last token |
  | `a * b` | the product; numbers are weights | every token |
  | `a & b` | a gate: `a` where `b > 0`, otherwise 0 | every token |

  Args:
    expression: Names of rewards, numbers, operators and parentheses.
    options: The options by name; each reward takes those among its parameters.
    seen: The arrays that `observed` returns.
  """
  values = _values(expression, options, seen)
  return _value(_parsed(expression).body, values, seen), {name: _of_rows(x, seen) for name, x in values.items()}


@takes_numpy
def evaluate_parts(expression: str, options: Mapping[str, Any], seen: Mapping[str, Any]) -> Float[Array, 'P G K']:
  """Returns the value per row of each summand of an expression without its weight: see `weights`.

  Args:
    expression: Names of rewards, numbers, operators and parentheses.
    options: The options by name; each reward takes those among its parameters.
    seen: The arrays that `observed` returns.
  """
  values = _values(expression, options, seen)
  found = [_value(node, values, seen) for _, node in _summands(_parsed(expression).body)]
  return jnp.stack([_of_rows(x, seen) for x in found], axis=-1)


def weights(expression: str) -> tuple[float, ...]:
  """Returns the weight of each summand: 1 and 0.5 in `correct + 0.5 * overlong`."""
  return tuple(weight for weight, _ in _summands(_parsed(expression).body))


def _summands(node: ast.expr) -> list[tuple[float, ast.expr]]:
  """Splits an expression at its outermost additions, and each summand into a number and the rest."""
  if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
    return [*_summands(node.left), *_summands(node.right)]
  if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
    for number, rest in ((node.left, node.right), (node.right, node.left)):
      if not _has_names(number):
        factor = _value(number, {}, {})
        return [(factor * weight, inner) for weight, inner in _summands(rest)]
  return [(1.0, node)] if _has_names(node) else []  # a number is the same for all rows


def _has_names(node: ast.expr) -> bool:
  return any(isinstance(inner, ast.Name) for inner in ast.walk(node))


def _values(expression: str, options: Mapping[str, Any], seen: Mapping[str, Any]) -> dict[str, Array]:
  return {
    name: seen['scores'][name]
    if name in seen.get('scores', ())
    else REGISTRY[name](*(seen[x] for x in inputs(REGISTRY[name])), **chosen(REGISTRY[name], dict(options)))
    for name in names(expression)
  }


def _value(node: Any, values: Mapping[str, Array], seen: Mapping[str, Any]) -> Any:
  if isinstance(node, ast.BinOp):
    sides = [_value(node.left, values, seen), _value(node.right, values, seen)]
    ranks = {jnp.ndim(x) for x in sides}
    if 3 in ranks and (2 in ranks or isinstance(node.op, ast.Add)):
      sides = [_on_tokens(x, node.op, seen['mask']) for x in sides]
    return _OPERATORS[type(node.op)](*sides)
  return node.value if isinstance(node, ast.Constant) else values[node.id]


def _on_tokens(x: Array | float, operator: ast.operator, mask: Array) -> Array:
  if jnp.ndim(x) == 3:
    return jnp.asarray(x)
  last = mask & (next_counted(mask) == mask.shape[2])
  return jnp.where(last if isinstance(operator, ast.Add) else mask, jnp.broadcast_to(x, mask.shape[:2])[:, :, None], 0.0)


def _of_rows(x: Array, seen: Mapping[str, Any]) -> Float[Array, 'P G']:
  return jnp.where(seen['mask'], x, 0.0).sum(axis=2) if x.ndim == 3 else x


def _parsed(expression: str) -> ast.Expression:
  try:
    return ast.parse(expression.strip(), mode='eval')
  except SyntaxError as error:
    raise ValueError(f'reward.name = {expression!r}: {error.msg}; fix: names of rewards joined by +, * or &') from error

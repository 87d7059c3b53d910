"""Checks single constants of stop rules, which flags replace, as `validate` checks the fields of a config."""

import math

from espo_jax import registry, stops
from espo_jax.configs.defaults import FIELDS
from espo_jax.configs.schema import Range

Constant = float | int | tuple[int, ...]  # a number, or token ids
_MOST = 2**31  # whole numbers are below it


def typed_constant(rule: str, name: str, value: Constant) -> Constant:
  """Returns a constant of a stop rule in the type of its default.

  Args:
    rule: The rule's name.
    name: The name of a keyword argument of the rule.
    value: The number, or the token ids.

  Raises:
    ValueError: The value is not of the type of the default, or is outside the range of the config field.
  """
  default = registry.defaults(stops.REGISTRY[rule])[name]
  where = f'{name}={told_constant(value)}'
  if isinstance(default, tuple):
    ids = value if isinstance(value, tuple) else (value,)
    if not all(float(token).is_integer() and 0 <= token < _MOST for token in ids):
      raise ValueError(f'{where}: of another kind; fix: token ids such as 17,4')
    return tuple(int(token) for token in ids)
  if isinstance(value, tuple) or not isinstance(default, bool | int | float):
    raise ValueError(f'{where}: of another kind; fix: {"one number" if isinstance(value, tuple) else "leave it out"}')
  if isinstance(default, bool):
    if value not in (0, 1):
      raise ValueError(f'{where}: neither yes nor no; fix: 1 or 0')
    return bool(value)
  if isinstance(default, int) and not (float(value).is_integer() and abs(value) < _MOST):
    raise ValueError(f'{where}: not a whole number below 2^31; fix: such as {default}')
  if not math.isfinite(value) and value != default:
    raise ValueError(f'{where}: not a finite number; fix: a finite one')
  typed = type(default)(value)
  field = FIELDS.get(f'stop.{rule}.{name}') or (None if stops.is_users(rule) else FIELDS.get(f'stop.{name}'))
  if field is not None and isinstance(field.allowed, Range) and field.allowed.outside(typed):
    raise ValueError(f'{where}: out of range; fix: a number {field.allowed.text}')
  return typed


def told_constant(value: Constant) -> str:
  """Returns a constant as flags have it."""
  return ','.join(map(str, value)) if isinstance(value, tuple) else f'{value:.15g}'

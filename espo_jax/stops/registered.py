"""The register of stop rules."""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from espo_jax.registry import Method, Register
from espo_jax.stops.rule import StopRule

REGISTRY: Register[Callable[..., StopRule]] = Register('stop rule', 'stop.name')


def register(name: str) -> Callable[[Method], Method]:
  """Makes a stop rule known as `stop.name`, and as one of `baselines`.

  The registered function takes keyword-only options and returns a `StopRule`. `controlled` makes such a function from a score
  and a threshold. An option of a rule of the package takes the value of the field of `config.stop` that has its name. An option
  of a user's rule is set as `config.stop.NAME.OPTION`.

  Raises:
    RegistryError: The name cannot be used, or a parameter is not a keyword-only option with a default.
  """
  return REGISTRY.decorator(name, reads={})


def is_users(name: str) -> bool:
  """Returns whether the rule `name` was registered outside of this package."""
  return not inspect.unwrap(REGISTRY[name]).__module__.startswith('espo_jax.')


def arguments(name: str) -> frozenset[str]:
  """Returns the names of the keyword arguments of the rule `name`."""
  return frozenset(inspect.signature(REGISTRY[name]).parameters)


def make(name: str, constants: Mapping[str, Any]) -> StopRule:
  """Makes a rule. Equal constants make the same rule, because programs are compiled for a rule.

  Args:
    name: The rule's name.
    constants: The values of arguments by name; those that the rule does not have are ignored.
  """
  taken = {argument: value for argument, value in constants.items() if argument in arguments(name)}
  try:
    hash(tuple(taken.values()))
  except TypeError:  # a user's rule may take lists
    return REGISTRY[name](**taken)
  return _made(REGISTRY[name], **taken)


@functools.lru_cache(typed=True)
def _made(rule: Callable[..., StopRule], **constants: Any) -> StopRule:
  return rule(**constants)

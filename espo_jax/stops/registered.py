"""The register of stop rules."""

import inspect
from collections.abc import Callable

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

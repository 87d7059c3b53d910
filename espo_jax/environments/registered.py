"""The register of environments."""

import inspect
from collections.abc import Callable
from typing import Any

from espo_jax.environments.environment import ROLES
from espo_jax.registry import Method, Register, RegistryError, place

REGISTRY: Register[Callable[..., Any]] = Register('environment', 'environment.name')


def register(name: str) -> Callable[[Method], Method]:
  """Makes an environment known as `environment.name`.

  It decorates a class with the methods of `Environment`, or a function that returns such an object. The keyword-only parameters
  are options, as in `--config.environment.moves=2`. Each episode has an object of its own.

  Raises:
    RegistryError: The name cannot be used, a parameter is not an option, or a class lacks a method or has an unknown role.
  """
  mark = REGISTRY.decorator(name, {})

  def checked(environment: Method) -> Method:
    kind = inspect.unwrap(environment)
    if isinstance(kind, type):
      for method in ('reset', 'step'):
        if not callable(getattr(kind, method, None)):
          fix = f'fix: write {method!r} as environments.Environment says'
          raise RegistryError(f'{place(environment)}: environment {name!r}: it has no method {method!r}; {fix}')
      role = getattr(kind, 'role', 'user')
      if role not in ROLES:
        raise RegistryError(
          f'{place(environment)}: environment {name!r}: role = {role!r}; fix: one of {", ".join(map(repr, ROLES))}'
        )
    mark(environment)
    return environment

  return checked


def role_of(name: str) -> str:
  """Returns who the observations of a registered environment come from, one of `ROLES`."""
  return str(getattr(inspect.unwrap(REGISTRY.find(name)), 'role', 'user'))


def is_graded(name: str) -> bool:
  """Returns whether a registered environment gets the task's verdict on each turn."""
  return bool(getattr(inspect.unwrap(REGISTRY.find(name)), 'graded', False))

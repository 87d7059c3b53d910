"""The register of environments."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from espo_jax.environments.environment import ROLES, Environment
from espo_jax.registry import Method, Register, RegistryError, chosen, place

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


class Traits(NamedTuple):
  """What an environment says of itself: the attributes of `Environment` that do not depend on an episode."""

  role: str
  graded: bool
  task: str
  expert: bool  # whether it has one


def traits(name: str, options: Mapping[str, Any]) -> Traits:
  """Makes a registered environment, and returns what it says of itself.

  Args:
    name: The name of the environment.
    options: The options of the section `environment`; the environment takes those among its parameters.

  Raises:
    RegistryError: What was made is no environment.
  """
  make = REGISTRY.find(name)
  made = make(**chosen(make, dict(options)))
  role = getattr(made, 'role', 'user')
  if not isinstance(made, Environment) or role not in ROLES:
    wrong = f'{made!r} is no environment' if not isinstance(made, Environment) else f'role = {role!r}'
    raise RegistryError(
      f'environment.name = {name!r}: {wrong}; fix: the methods `reset` and `step`, and a role of {", ".join(map(repr, ROLES))}'
    )
  return Traits(
    role,
    graded=bool(getattr(made, 'graded', False)),
    task=str(getattr(made, 'task', '')),
    expert=callable(getattr(made, 'expert', None)),
  )

"""The register of exit policies."""

from collections.abc import Callable

from espo_jax.exits.policy import ExitPolicy
from espo_jax.registry import Method, Register
from espo_jax.types import takes_numpy

REGISTRY: Register[Callable[..., ExitPolicy]] = Register('exit policy', 'exits.policy')


def register(name: str) -> Callable[[Method], Method]:
  """Makes an exit policy known as `exits.policy`.

  What registers is a function of keyword-only options, as in `--config.exits.level=0.5`, that returns an `ExitPolicy`.

  Raises:
    RegistryError: The name cannot be used, or a parameter is no option with a default.
  """

  def mark(policy: Method) -> Method:
    policy = takes_numpy(policy)
    REGISTRY.add(name, policy, policy, {})
    return policy

  return mark


def get(name: str) -> Callable[..., ExitPolicy]:
  """The policy of that name.

  Raises:
    ValueError: There is none.
  """
  return REGISTRY.find(name)

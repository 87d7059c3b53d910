"""The register of exit policies."""

from collections.abc import Callable

from espo_jax.exits.policy import ExitPolicy
from espo_jax.registry import Method, Register

REGISTRY: Register[Callable[..., ExitPolicy]] = Register('exit policy', 'exits.policy')


def register(name: str) -> Callable[[Method], Method]:
  """Makes an exit policy known as `exits.policy`.

  The registered function takes keyword-only options, as in `--config.exits.level=0.5`, and returns an `ExitPolicy`.

  Raises:
    RegistryError: The name cannot be used, or a parameter is not a keyword-only option with a default.
  """
  return REGISTRY.decorator(name, reads={})


def get(name: str) -> Callable[..., ExitPolicy]:
  """Returns the policy registered as `name`.

  Raises:
    ValueError: No policy has that name.
  """
  return REGISTRY.find(name)

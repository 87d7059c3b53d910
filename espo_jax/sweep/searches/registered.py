"""The register of searches."""

from collections.abc import Callable

from espo_jax.registry import Method, Register
from espo_jax.sweep.searches.space import Proposer

REGISTRY: Register[Callable[..., Proposer]] = Register('search', 'search.by')


def register(name: str) -> Callable[[Method], Method]:
  """Makes a search known as `by` of a sweep's `Search`.

  The registered function takes keyword-only options and returns a `Proposer`, which is a function of what it is given alone. It
  raises ValueError for an option that is out of range. A sweep sets options in `Search.options`.

  Raises:
    RegistryError: The name cannot be used, or a parameter is not a keyword-only option with a default.
  """
  return REGISTRY.decorator(name, reads={})

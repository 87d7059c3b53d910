"""The register of early ends."""

from collections.abc import Callable

from espo_jax.registry import Method, Register
from espo_jax.sweep.ends.trial import EarlyEnd

REGISTRY: Register[Callable[..., EarlyEnd]] = Register('early end', 'early_end')


def register(name: str) -> Callable[[Method], Method]:
  """Makes an early end known as `early_end` of a sweep.

  The registered function takes keyword-only options and returns an `EarlyEnd`. It raises ValueError for an option that is out
  of range. A sweep sets options in `early_end_options`.

  Raises:
    RegistryError: The name cannot be used, or a parameter is not a keyword-only option with a default.
  """
  return REGISTRY.decorator(name, reads={})

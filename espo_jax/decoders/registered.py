"""The register of decoders."""

from collections.abc import Callable

from espo_jax.decoders.samples import Decoder
from espo_jax.registry import Method, Register

REGISTRY: Register[Callable[..., Decoder]] = Register('decoder', '--decoder')


def register(name: str) -> Callable[[Method], Method]:
  """Makes a decoder known as `--decoder` of espo_jax.evaluate.

  The registered function takes keyword-only options and returns a `Decoder`. It raises ValueError for an option that is out of
  range. An option is set as `--options OPTION=VALUE` behind the decoder.

  Raises:
    RegistryError: The name cannot be used, or a parameter is not a keyword-only option with a default.
  """
  return REGISTRY.decorator(name, reads={})

"""The register of sources."""

from collections.abc import Callable, Iterator

from espo_jax.registry import Method, Register
from espo_jax.tasks import Example

READS = {
  'problems': 'the problems with their rollouts, a list of `Asked`',
  'judge': 'what the task and its tokenizer say of texts, a `Judge`',
  'rng': 'random numbers that depend on the seed alone, a NumPy `Generator`',
}
REGISTRY: Register[Callable[..., Iterator[Example]]] = Register('source', '--source')


def register(name: str) -> Callable[[Method], Method]:
  """Makes a source known as `--source` of espo_jax.sources.

  The registered function yields examples. Its positional parameters are some of `READS`, and its keyword-only parameters are
  options, set as `--options OPTION=VALUE`. It raises ValueError for an option that is out of range.

  Raises:
    RegistryError: The name cannot be used, or a parameter names nothing to read.
  """
  return REGISTRY.decorator(name, READS)

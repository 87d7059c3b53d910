"""The register of logit processors."""

from collections.abc import Callable

from espo_jax.registry import Method, Register
from espo_jax.rollout.processors.processor import Processor

READS = {
  'thinking_end': 'the ids of the tokens that end the thinking, or those of `end_tokens` if no such token is named',
  'end_tokens': 'the ids of the tokens that end a response',
}
REGISTRY: Register[Callable[..., Processor]] = Register('processor', '--processor')


def register(name: str) -> Callable[[Method], Method]:
  """Makes a logit processor known as `--processor` of espo_jax.evaluate.

  The registered function takes any of `READS` and keyword-only options, and returns a `Processor`. It raises ValueError for an
  option that is out of range. An option is set as `--options OPTION=VALUE` behind the processor.

  Raises:
    RegistryError: The name cannot be used, or a parameter is neither in `READS` nor an option with a default.
  """
  return REGISTRY.decorator(name, reads=READS)

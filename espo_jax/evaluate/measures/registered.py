"""The register of measures of answers, and the arrays that one may read."""

from collections.abc import Callable
from typing import Any

from espo_jax.registry import Method, Register

READS = {
  'stopped': 'whether a stop rule ended the answer, [N]',
  'right': 'whether the answer is right if it is decoded to its own end, [N]; by problem and sample in `flop_matched_eval`',
  'problem': "the problem's position in the test split, [N]",
  'lengths': 'the tokens of the answer up to its stop, or to its own end, [N]',
  'log_ratios': 'the log-probability of the answer under another policy minus that under the sampling one, [N]',
  'flops': 'the floating-point operations of the answer, by problem and sample, [P, N]',
  'long_right': 'whether an answer of the other kind is right, by problem and sample, [P, M]',
  'long_flops': 'the floating-point operations of an answer of the other kind, [P, M]',
  'values': 'the number of each answer whose mean is wanted, [N]',
}
REGISTRY: Register[Callable[..., Any]] = Register('measure', 'summary.json')


def register(name: str) -> Callable[[Method], Method]:
  """Makes a measure of an evaluation's answers known: a function of arrays with the names in `READS`.

  Raises:
    RegistryError: The name cannot be used, or a parameter is not in `READS`.
  """
  return REGISTRY.decorator(name, READS)

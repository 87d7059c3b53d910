"""The register of diagnostics, and the metrics that one may read."""

from collections.abc import Callable

from espo_jax.registry import Method, Register

READS = {  # the name of a parameter, and the metric whose values since the start of the stage it is
  'accuracy': 'accuracy',
  'reward': 'reward/mean',
  'entropy': 'entropy',
  'lengths': 'rollout/length_mean',
  'truncated': 'rollout/truncated_rate',
  'equal_groups': 'reward/equal_groups',
  'turns': 'turns/mean',  # nan without an environment
}
REGISTRY: Register[Callable[..., str]] = Register('diagnostic', 'warning/NAME')


def register(name: str) -> Callable[[Method], Method]:
  """Makes a diagnostic known, which every reinforcement learning then asks after each update.

  A diagnostic is a function of the values that metrics had so far, by the names in `READS`. Each is a list of numbers, one per
  update, in which a missing value is nan. It returns what to warn of, or ''.

  Raises:
    RegistryError: The name cannot be used, or a parameter is not in `READS`.
  """
  return REGISTRY.decorator(name, {parameter: f'the values of {metric} so far' for parameter, metric in READS.items()})

"""The register of objectives and further terms, and the arrays that they may read."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from espo_jax.objectives.terms import Terms
from espo_jax.registry import Method, Register, RegistryError, chosen, defaults, inputs, place
from espo_jax.types import Metrics

ARRAYS = {
  'logprobs': 'log-probabilities of the tokens under the current policy, exits included, with a gradient, [N, T]',
  'entropy': "the current policy's entropy, nats, with a gradient, [N, T]",
  'values': "the current critic's values, with a gradient, [N, T]",
  'old_logprobs': 'log-probabilities from before the update, [N, T]',
  'old_values': 'values from before the update, [N, T]',
  'reference_logprobs': 'log-probabilities under the reference policy, [N, T]',
  'advantages': 'how much better than expected each token was, [N, T]',
  'returns': 'what the values should have been, [N, T]',
  'mask': 'true on the tokens that count, [N, T]',
  'reference_kl': "the current policy's divergence from the reference over the vocabulary, nats, with a gradient, [N, T]",
  'old_entropy': 'the entropy before the update, nats, [N, T]',
  'reference_entropy': "the reference policy's entropy, nats, [N, T]",
  'entropy_slope': "how the current entropy changes along the token's own gradient, [N, T]",
  'opening_logprobs': 'log-probabilities of all first response tokens under the current policy, with a gradient, [N, V]',
  'past_entropy': "the mean entropy of the token's turn over the updates before, nats, nan where there are none, [N, T]",
  'progress': "the share of the run's updates that is over, []",
  'prefers_short': 'whether the prompt is served as well without reasoning, [N]',
}
OF_REFERENCE = frozenset(
  {'reference_logprobs', 'reference_kl', 'reference_entropy'}
)  # each needs a forward pass of the reference policy
Reads = Callable[[Mapping[str, Any]], Iterable[str]]


class Objective(NamedTuple):
  """A registered objective or term.

  Attributes:
    function: `(*arrays, **options) -> ({name: (weight, Term)}, metrics)`; the loss is the sum of `weight * term.mean`.
    advantage: The registered advantage that it is published with; '' for a term that is added to an objective.
    draws: The most rollouts per step that it is published with. With more than one, groups of equal scores are replaced.
    ranks: Whether it ranks the tokens of a minibatch against each other, so that micro-batches do not add up to its loss.
    reads: A function from the options to the optional arrays (those with the default None) that are read under these options;
      None where the function reads all arrays that it names.
  """

  function: Callable[..., tuple[Terms, Metrics]]
  advantage: str = ''
  draws: int = 1
  ranks: bool = False
  reads: Reads | None = None

  def arrays(self, given: Mapping[str, Any]) -> frozenset[str]:
    """The arrays that the function reads under these options."""
    names = frozenset(inputs(self.function))
    if self.reads is None:
      return names
    settings = defaults(self.function) | chosen(self.function, dict(given))
    return names - _optional(self.function) | frozenset(self.reads(settings))


REGISTRY: Register[Objective] = Register('objective', 'objective.name', in_expressions=True)


def register(
  name: str, *, advantage: str = '', draws: int = 1, ranks: bool = False, reads: Reads | None = None
) -> Callable[[Method], Method]:
  """Makes an objective, or a term that is added to one, known as a part of `objective.name`.

  The function takes arrays with the names in `ARRAYS` and returns `({name: (weight, Term)}, metrics)`. Its keyword-only
  parameters are options, as in `--config.objective.clip_high=0.28`.

  Args:
    name: The name in a sum such as `grpo + kl_k3`.
    advantage: The registered advantage that the objective is published with; '' for a term that is added to an objective.
    draws: The most rollouts per step.
    ranks: Whether the tokens of a minibatch are ranked against each other.
    reads: A function from the options to the optional arrays (those with the default None) that are read under these options;
      None where the function reads all arrays that it names.

  Raises:
    RegistryError: The name cannot be used, or the function or `reads` names an array that does not exist.
  """

  def entry(function: Callable[..., Any]) -> Objective:
    made = Objective(function, advantage, draws, ranks, reads)
    if strangers := sorted(made.arrays({}) - set(inputs(function))):
      fix = f'a parameter {strangers[0]} = None, or another name'
      raise RegistryError(f'{place(function)}: objective {name!r}: `reads` names {strangers[0]!r}, no parameter; fix: {fix}')
    return made

  return REGISTRY.decorator(name, ARRAYS, entry)


def _optional(function: Callable[..., Any]) -> frozenset[str]:
  """The arrays that a function may be called without."""
  parameters = inspect.signature(function).parameters
  return frozenset(name for name in inputs(function) if parameters[name].default is None)

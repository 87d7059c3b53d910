"""Sums of registered objectives: `'grpo + kl_k3 + entropy'` is GRPO with a KL term and an entropy bonus."""

from collections.abc import Callable, Mapping
from typing import Any

from jaxtyping import Array

from espo_jax.objectives.registered import OF_REFERENCE, REGISTRY
from espo_jax.objectives.terms import Terms
from espo_jax.registry import chosen, defaults, inputs
from espo_jax.types import Metrics

Arrays = Mapping[str, Array | None]  # by the names in `registered.ARRAYS`
Loss = Callable[[Arrays], tuple[Terms, Metrics]]


def parts(expression: str) -> tuple[str, ...]:
  """The names in a sum such as `'grpo + kl_k3'`: one objective and further terms, in any order.

  Raises:
    ValueError: A name is unknown or occurs twice, or the sum does not have exactly one objective.
  """
  names = tuple(name.strip() for name in expression.split('+'))
  for name in names:
    REGISTRY.find(name, expression)
  if len(set(names)) < len(names):
    raise ValueError(f'objective.name = {expression!r}: a term stands twice; fix: name it once.')
  if len(found := [name for name in names if REGISTRY[name].advantage]) != 1:
    known = ', '.join(sorted(name for name, entry in REGISTRY.items() if entry.advantage))
    raise ValueError(f'objective.name = {expression!r}: {len(found)} objectives; fix: exactly one of {known}, terms beside it.')
  return names


def get(name: str) -> Callable[..., tuple[Terms, Metrics]]:
  """The objective or term registered as `name`: `(*arrays, **options) -> ({name: (weight, Term)}, metrics)`."""
  return REGISTRY.find(name).function


def default_advantage(expression: str) -> str:
  """The advantage that the objective in the sum is published with."""
  return next(REGISTRY[name].advantage for name in parts(expression) if REGISTRY[name].advantage)


def default_draws(expression: str) -> int:
  """The most rollouts per step that the objective in the sum is published with."""
  return max(REGISTRY[name].draws for name in parts(expression))


def ranks(expression: str) -> bool:
  """Whether a part of the sum ranks the tokens of a minibatch against each other."""
  return any(REGISTRY[name].ranks for name in parts(expression))


def compose(expression: str, options: Mapping[str, Any]) -> Loss:
  """The loss of a sum: a function from arrays by name to `(terms, metrics)`.

  Each part gets the arrays and options among its parameters. A further term uses the objective's value of an option that both
  have, unless the option is given.
  """
  entries = {name: REGISTRY[name] for name in parts(expression)}
  options = _shared(expression, options)

  def loss(arrays: Arrays) -> tuple[Terms, Metrics]:
    terms: Terms = {}
    metrics: Metrics = {}
    for name, entry in entries.items():
      read = entry.arrays(options)
      if missing := [array for array in sorted(read) if arrays.get(array) is None]:
        raise ValueError(f'objective {name!r} reads {missing[0]!r}, which is not among the arrays given; fix: add it to them')
      given = (arrays[array] if array in read else None for array in inputs(entry.function))
      more, measured = entry.function(*given, **chosen(entry.function, options))
      terms, metrics = terms | more, metrics | measured
    return terms, metrics

  return loss


def settings(expression: str, options: Mapping[str, Any]) -> dict[str, Any]:
  """Every option of a sum's parts: the given value or the default."""
  found: dict[str, Any] = {}
  for name in sorted(parts(expression), key=lambda name: bool(REGISTRY[name].advantage)):  # the objective's win
    found |= defaults(get(name))
  return found | dict(options)


def reads(expression: str, options: Mapping[str, Any]) -> frozenset[str]:
  """The arrays that a sum reads under its options."""
  options = _shared(expression, options)
  return frozenset().union(*(REGISTRY[name].arrays(options) for name in parts(expression)))


def reads_reference(expression: str, options: Mapping[str, Any]) -> bool:
  """Whether a sum reads arrays that need a forward pass of the reference policy."""
  return bool(reads(expression, options) & OF_REFERENCE)


def _shared(expression: str, options: Mapping[str, Any]) -> dict[str, Any]:
  """The given options, completed by the defaults of the objective, which further terms then use as well."""
  objective = next(REGISTRY[name].function for name in parts(expression) if REGISTRY[name].advantage)
  return defaults(objective) | dict(options)

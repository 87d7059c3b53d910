"""The registered objectives, and their sums: `'grpo + kl_k3 + entropy'` is GRPO with a KL term and an entropy bonus."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from espo_jax.objectives.covariance import clip_cov, kl_cov
from espo_jax.objectives.dapo import dapo
from espo_jax.objectives.drgrpo import drgrpo
from espo_jax.objectives.entropy import entropy
from espo_jax.objectives.epo import epo_entropy
from espo_jax.objectives.gmpo import gmpo
from espo_jax.objectives.grpo import grpo
from espo_jax.objectives.gspo import gspo
from espo_jax.objectives.inputs import LossInputs
from espo_jax.objectives.kl import kl_exact, kl_k1, kl_k2, kl_k3
from espo_jax.objectives.mode_margin import mode_margin
from espo_jax.objectives.ppo import ppo
from espo_jax.objectives.rloo import rloo
from espo_jax.objectives.rwr import rwr
from espo_jax.objectives.tepo import tepo
from espo_jax.objectives.terms import Terms
from espo_jax.registry import chosen, defaults, unknown
from espo_jax.types import Metrics

Loss = Callable[[LossInputs], tuple[Terms, Metrics]]


class Objective(NamedTuple):
  """A registered objective.

  Attributes:
    function: `(LossInputs, **options) -> ({name: (weight, Term)}, metrics)`; the loss is the sum of `weight * term.mean`.
    advantage: The one of `ADVANTAGES` it is published with; '' for a term that only stands beside an objective.
    draws: The most rollouts a step with which it is published: with more than one, groups of equal scores are drawn again.
    ranks: Whether it sets a minibatch's tokens against each other, so that micro-batches do not add up to it.
    reads: A function from the options to those of the fields of `LossInputs` it reads that cost a pass of the reference policy.
  """

  function: Callable[..., tuple[Terms, Metrics]]
  advantage: str = ''
  draws: int = 1
  ranks: bool = False
  reads: Callable[[Mapping[str, Any]], frozenset[str]] = lambda options: frozenset()


def _reference(options: Mapping[str, Any]) -> frozenset[str]:
  del options
  return frozenset({'reference_logprobs'})


def _exact(options: Mapping[str, Any]) -> frozenset[str]:
  del options
  return frozenset({'reference_kl'})


def _tepo(options: Mapping[str, Any]) -> frozenset[str]:
  fields = {'reference': {'reference_logprobs'}, 'exact': {'reference_kl'}}
  return frozenset(fields.get(options.get('divergence', ''), ()))


REGISTRY: dict[str, Objective] = {
  'ppo': Objective(ppo, 'gae'),
  'grpo': Objective(grpo, 'group_zscore'),
  'dapo': Objective(dapo, 'group_zscore', draws=10),  # as its released recipe
  'drgrpo': Objective(drgrpo, 'mean_only'),
  'gspo': Objective(gspo, 'group_zscore'),
  'gmpo': Objective(gmpo, 'group_zscore'),
  'rloo': Objective(rloo, 'loo'),
  'clip_cov': Objective(clip_cov, 'group_zscore', ranks=True),
  'kl_cov': Objective(kl_cov, 'group_zscore', ranks=True),
  'tepo': Objective(tepo, 'group_zscore', reads=_tepo),
  'rwr': Objective(rwr, 'score'),
  'entropy': Objective(entropy),
  'kl_k1': Objective(kl_k1, reads=_reference),
  'kl_k2': Objective(kl_k2, reads=_reference),
  'kl_k3': Objective(kl_k3, reads=_reference),
  'kl_exact': Objective(kl_exact, reads=_exact),
  'epo_entropy': Objective(epo_entropy),
  'mode_margin': Objective(mode_margin),
}


def parts(expression: str) -> tuple[str, ...]:
  """The names in a sum such as `'grpo + kl_k3'`: one objective and the terms beside it, in any order.

  Raises:
    ValueError: A name is unknown or stands twice, or there is not exactly one objective.
  """
  names = tuple(name.strip() for name in expression.split('+'))
  for name in names:
    if name not in REGISTRY:
      raise ValueError(unknown('objective.name', expression, name, REGISTRY))
  if len(set(names)) < len(names):
    raise ValueError(f'objective.name = {expression!r}: a term stands twice; fix: name it once.')
  if len(found := [name for name in names if REGISTRY[name].advantage]) != 1:
    known = ', '.join(sorted(name for name, entry in REGISTRY.items() if entry.advantage))
    raise ValueError(f'objective.name = {expression!r}: {len(found)} objectives; fix: exactly one of {known}, terms beside it.')
  return names


def get(name: str) -> Callable[..., tuple[Terms, Metrics]]:
  """The objective or term registered as `name`: `(LossInputs, **options) -> ({name: (weight, Term)}, metrics)`."""
  if name not in REGISTRY:
    raise ValueError(unknown('objective.name', name, name, REGISTRY))
  return REGISTRY[name].function


def default_advantage(expression: str) -> str:
  """The advantage that the objective in the sum is published with."""
  return next(REGISTRY[name].advantage for name in parts(expression) if REGISTRY[name].advantage)


def default_draws(expression: str) -> int:
  """The most rollouts a step with which the objective in the sum is published."""
  return max(REGISTRY[name].draws for name in parts(expression))


def ranks(expression: str) -> bool:
  """Whether a part of the sum sets a minibatch's tokens against each other."""
  return any(REGISTRY[name].ranks for name in parts(expression))


def compose(expression: str, options: Mapping[str, Any]) -> Loss:
  """The function `LossInputs -> (terms, metrics)` of a sum, where each part takes those of the options that it has."""
  functions = [get(name) for name in parts(expression)]
  objective = next(get(name) for name in parts(expression) if REGISTRY[name].advantage)
  options = defaults(objective) | dict(options)  # terms beside an objective do as it does where they have the same option

  def loss(x: LossInputs) -> tuple[Terms, Metrics]:
    terms: Terms = {}
    metrics: Metrics = {}
    for function in functions:
      more, measured = function(x, **chosen(function, options))
      terms, metrics = terms | more, metrics | measured
    return terms, metrics

  return loss


def settings(expression: str, options: Mapping[str, Any]) -> dict[str, Any]:
  """Every option of a sum's parts: as given, or as it is by default."""
  found: dict[str, Any] = {}
  for name in sorted(parts(expression), key=lambda name: bool(REGISTRY[name].advantage)):  # what the objective says goes last
    found |= defaults(get(name))
  return found | dict(options)


def reads(expression: str, options: Mapping[str, Any]) -> frozenset[str]:
  """The costly fields of `LossInputs` that a sum reads under its options."""
  return frozenset().union(*(REGISTRY[name].reads(options) for name in parts(expression)))

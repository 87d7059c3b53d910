"""Advantages and loss terms. They see arrays; they know nothing of models and rollouts."""

import inspect
from collections.abc import Callable

from espo_jax.objectives.gae import gae
from espo_jax.objectives.masked import explained_variance, masked_mean, masked_sum, masked_variance, whiten
from espo_jax.objectives.ppo import LossInputs, ppo
from espo_jax.objectives.terms import Term, clipped_policy, clipped_value, k3, token_mean

REGISTRY: dict[str, Callable] = {'ppo': ppo}


def get(name: str) -> Callable:
  """The policy objective registered as `name`: `(LossInputs, **options) -> ({name: (weight, Term)}, metrics)`."""
  if name not in REGISTRY:
    raise ValueError(f'objective.name = {name!r} is unknown; known: {", ".join(sorted(REGISTRY))}.')
  return REGISTRY[name]


def arguments(name: str) -> frozenset[str]:
  """The options that the objective `name` takes."""
  return frozenset(inspect.signature(get(name)).parameters) - {'x'}


__all__ = [
  'REGISTRY',
  'LossInputs',
  'Term',
  'arguments',
  'clipped_policy',
  'clipped_value',
  'explained_variance',
  'gae',
  'get',
  'k3',
  'masked_mean',
  'masked_sum',
  'masked_variance',
  'ppo',
  'token_mean',
  'whiten',
]

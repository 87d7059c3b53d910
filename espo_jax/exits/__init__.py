"""Exit policies: how many blocks a token runs through. They know nothing of models or losses."""

from collections.abc import Callable

from espo_jax.exits.base import ExitPolicy, Observation, exit_pmf
from espo_jax.exits.confidence import calm_cosine, calm_margin, calm_threshold
from espo_jax.exits.heads import dynamax, ponder_q, sampled, threshold
from espo_jax.exits.schedules import fixed, linear_decay, never, skipdecode
from espo_jax.registry import unknown

REGISTRY: dict[str, Callable[..., ExitPolicy]] = {
  'sampled': sampled,
  'threshold': threshold,
  'dynamax': dynamax,
  'ponder_q': ponder_q,
  'calm_margin': calm_margin,
  'calm_cosine': calm_cosine,
  'skipdecode': skipdecode,
  'fixed': fixed,
  'never': never,
}


def get(name: str) -> Callable[..., ExitPolicy]:
  """The policy of that name.

  Raises:
    ValueError: There is none.
  """
  if name not in REGISTRY:
    raise ValueError(unknown('exits.policy', name, name, REGISTRY))
  return REGISTRY[name]


__all__ = [
  'REGISTRY',
  'ExitPolicy',
  'Observation',
  'calm_cosine',
  'calm_margin',
  'calm_threshold',
  'dynamax',
  'exit_pmf',
  'fixed',
  'get',
  'linear_decay',
  'never',
  'ponder_q',
  'sampled',
  'skipdecode',
  'threshold',
]

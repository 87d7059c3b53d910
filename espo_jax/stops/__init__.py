"""Stop rules. A rule sees regrets, values and its own state; it knows nothing of models."""

import inspect
from collections.abc import Callable

from espo_jax.stops.ablations import never, random_stop, regret_only, value_only
from espo_jax.stops.base import Adaptive, Hindsight, Observation, StopRule, StopState
from espo_jax.stops.espo import espo
from espo_jax.stops.gate import GateState, init_gate, update_gate
from espo_jax.stops.regret import surrogate_regret
from espo_jax.stops.risk_control import risk_control

REGISTRY: dict[str, Callable[..., StopRule]] = {
  'espo': espo,
  'regret_only': regret_only,
  'value_only': value_only,
  'random': random_stop,
  'risk_control': risk_control,
  'never': never,
}


def arguments(name: str) -> frozenset[str]:
  """The keyword arguments that the rule `name` takes."""
  return frozenset(inspect.signature(REGISTRY[name]).parameters)


__all__ = [
  'REGISTRY',
  'Adaptive',
  'GateState',
  'Hindsight',
  'Observation',
  'StopRule',
  'StopState',
  'arguments',
  'espo',
  'init_gate',
  'never',
  'random_stop',
  'regret_only',
  'risk_control',
  'surrogate_regret',
  'update_gate',
  'value_only',
]

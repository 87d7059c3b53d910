"""Stop rules. A rule sees regrets, values and its own state; it knows nothing of models.

The life of a stopped row, place by place:

1. `rollout/engine.py` shows the rule each token's regret and value (`StopRule.update`), and the rule says stop.
2. The row's `stop_reason` becomes `STOPPED`, unless the same token ends the response: then the answer is there.
3. A share of the stopped rows, the shadow rows, decodes on for measurement: `length` is the stop, `full_length` the end.
4. `Experiment.grade` reads the whole text, so that a shadow row's verdict says what the stop has cost.
5. `rewards.observed` counts a stopped row as wrong, and `rewards.token_rewards` puts `stop.fail_reward` on its last token.
6. `Trajectories.mask` ends with that token, which is trained on. What a shadow row wrote behind it never is.
7. `objectives.gae` takes the stop for absorbing: no value follows it. Group advantages count the failure as the row's score.
8. `StopRule.adapt` moves the regret's moments and beta between batches, by the share of rows stopped.
9. The metrics `stop/rate`, `stop/shadow_correct` and their kin report it: `stop_metrics`.
"""

from espo_jax.registry import import_files
from espo_jax.stops.ablations import never, random_stop, regret_only, value_only
from espo_jax.stops.controller import Control, at_beta, controlled
from espo_jax.stops.espo import espo
from espo_jax.stops.gate import GateState, init_gate, update_gate
from espo_jax.stops.registered import REGISTRY, arguments, register
from espo_jax.stops.regret import surrogate_regret
from espo_jax.stops.risk_control import risk_control
from espo_jax.stops.rule import Adaptive, Hindsight, Observation, StopRule, StopState, adaptive

import_files(__name__, __path__)

__all__ = [
  'REGISTRY',
  'Adaptive',
  'Control',
  'GateState',
  'Hindsight',
  'Observation',
  'StopRule',
  'StopState',
  'adaptive',
  'arguments',
  'at_beta',
  'controlled',
  'espo',
  'init_gate',
  'never',
  'random_stop',
  'register',
  'regret_only',
  'risk_control',
  'surrogate_regret',
  'update_gate',
  'value_only',
]

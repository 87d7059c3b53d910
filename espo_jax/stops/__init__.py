"""Stop rules. A rule sees regrets, values and its own state. It does not depend on models.

These places of the code handle a stopped row, in this order:

1. `rollout/engine.py` passes each token's regret and value to the rule (`StopRule.update`), which returns a stop.
2. The row's `stop_reason` becomes `STOPPED`, unless the same token is an end token: then the answer is complete. Where
   stopped rows are dropped it becomes `PRUNED`, and such a row is not trained on. Where they are graded it becomes `SETTLED`,
   and such a row counts as one that ended by itself.
3. A share of the stopped rows, the shadow rows, decodes on: `length` is the stop, `full_length` the end.
4. `Experiment.grade` reads the whole text, so a shadow row's verdict shows whether the stop lost a correct answer.
5. `rewards.observed` counts a stopped row as wrong. `rewards.token_rewards` puts what it returns on its last token. A pruned
   row has no tokens from here on: see `learner.kept`.
6. `Trajectories.mask` ends with that token, which is trained on. Only roulette trains on a shadow row's later tokens.
7. `objectives.gae` treats the stop as absorbing: no value follows it. Group advantages use what the row returns as the score.
8. `StopRule.adapt` updates the moments of the regret and beta between batches, from the share of rows stopped. A rule made by
   `with_head` also fits the head then: from rows that were not stopped, and from shadow rows.
9. `stop_metrics` reports `stop/rate`, `stop/shadow_correct` and the other `stop/` metrics.
"""

from espo_jax.registry import import_files
from espo_jax.stops.ablations import never, random_stop, regret_only, value_only
from espo_jax.stops.answer_convergence import answer_convergence
from espo_jax.stops.answer_entropy import answer_entropy, mean_entropy, slope
from espo_jax.stops.arrol import ARROL_BINS, arrol, arrol_signed, arrol_survival, bin_posterior, signed_survival
from espo_jax.stops.candidate_answer import candidate_answer
from espo_jax.stops.controller import Control, Memory, at_beta, controlled
from espo_jax.stops.dead_groups import dead_groups, group_is_dead
from espo_jax.stops.deepconf import deepconf
from espo_jax.stops.deer import answer_confidence, deer
from espo_jax.stops.duet_abort import duet_abort
from espo_jax.stops.duet_settled import duet_settled
from espo_jax.stops.espo import espo
from espo_jax.stops.gate import GateState, init_gate, update_gate
from espo_jax.stops.hazard_head import fit_hazard, hazard_head, with_hazard
from espo_jax.stops.head import Forecast, fit_head, forecast, forecasts, head_calibration, with_head
from espo_jax.stops.latent_trajectory import latent_trajectory
from espo_jax.stops.makespan_gate import gate_counts, makespan_gate
from espo_jax.stops.mean_logprob import mean_logprob
from espo_jax.stops.own_price import own_price, wald
from espo_jax.stops.probing import ForcedAnswer, Probing
from espo_jax.stops.registered import REGISTRY, arguments, is_users, make, register
from espo_jax.stops.regression import Hazard, Head, Regression, new_hazard, new_head, newton
from espo_jax.stops.regret import surrogate_regret
from espo_jax.stops.risk_control import risk_control
from espo_jax.stops.rule import Adaptive, GroupRule, Hindsight, Observation, StopRule, StopState, adaptive, unless_nan

import_files(__name__, __path__)

__all__ = [
  'ARROL_BINS',
  'REGISTRY',
  'Adaptive',
  'Control',
  'ForcedAnswer',
  'Forecast',
  'GateState',
  'GroupRule',
  'Hazard',
  'Head',
  'Hindsight',
  'Memory',
  'Observation',
  'Probing',
  'Regression',
  'StopRule',
  'StopState',
  'adaptive',
  'answer_confidence',
  'answer_convergence',
  'answer_entropy',
  'arguments',
  'arrol',
  'arrol_signed',
  'arrol_survival',
  'at_beta',
  'bin_posterior',
  'candidate_answer',
  'controlled',
  'dead_groups',
  'deepconf',
  'deer',
  'duet_abort',
  'duet_settled',
  'espo',
  'fit_hazard',
  'fit_head',
  'forecast',
  'forecasts',
  'gate_counts',
  'group_is_dead',
  'hazard_head',
  'head_calibration',
  'init_gate',
  'is_users',
  'latent_trajectory',
  'make',
  'makespan_gate',
  'mean_entropy',
  'mean_logprob',
  'never',
  'new_hazard',
  'new_head',
  'newton',
  'own_price',
  'random_stop',
  'register',
  'regret_only',
  'risk_control',
  'signed_survival',
  'slope',
  'surrogate_regret',
  'unless_nan',
  'update_gate',
  'value_only',
  'wald',
  'with_hazard',
  'with_head',
]

"""Rewards: they turn verdicts into one number per row, which is then placed on tokens. They do not depend on models.

Each file registers the rewards of one paper. `SEEN` and `TEXT` list what a reward may read.
"""

from espo_jax.registry import import_files
from espo_jax.rewards.adr_modes import short_serves
from espo_jax.rewards.compose import evaluate, evaluate_parts, names, weights
from espo_jax.rewards.correct import correct
from espo_jax.rewards.hmpo import hmpo
from espo_jax.rewards.observed import extras, observed
from espo_jax.rewards.placement import RETURNS, stop_reward, token_rewards
from espo_jax.rewards.registered import REGISTRY, SEEN, TEXT, register
from espo_jax.rewards.text import RewardError, TextScorer, text_rewards

import_files(__name__, __path__)

__all__ = [
  'REGISTRY',
  'RETURNS',
  'SEEN',
  'TEXT',
  'RewardError',
  'TextScorer',
  'correct',
  'evaluate',
  'evaluate_parts',
  'extras',
  'hmpo',
  'names',
  'observed',
  'register',
  'short_serves',
  'stop_reward',
  'text_rewards',
  'token_rewards',
  'weights',
]

"""Rewards: from verdicts to one number a row, and from there to tokens. They know nothing of models.

Each paper is a file that registers what is in it. `SEEN` lists what a reward may read.
"""

from espo_jax.registry import import_files
from espo_jax.rewards.adr_modes import short_serves
from espo_jax.rewards.compose import evaluate, names
from espo_jax.rewards.correct import correct
from espo_jax.rewards.hmpo import hmpo
from espo_jax.rewards.observed import extras, observed
from espo_jax.rewards.placement import token_rewards
from espo_jax.rewards.registered import REGISTRY, SEEN, register

import_files(__name__, __path__)

__all__ = [
  'REGISTRY',
  'SEEN',
  'correct',
  'evaluate',
  'extras',
  'hmpo',
  'names',
  'observed',
  'register',
  'short_serves',
  'token_rewards',
]

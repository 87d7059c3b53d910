"""Rewards: from verdicts to one number a row, and from there to tokens. They know nothing of models."""

from espo_jax.rewards.adr_modes import short_serves
from espo_jax.rewards.compose import REGISTRY, evaluate, names
from espo_jax.rewards.correct import correct
from espo_jax.rewards.hmpo import hmpo
from espo_jax.rewards.observed import observed
from espo_jax.rewards.placement import token_rewards

__all__ = ['REGISTRY', 'correct', 'evaluate', 'hmpo', 'names', 'observed', 'short_serves', 'token_rewards']

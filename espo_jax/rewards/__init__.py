"""Rewards: from verdicts to one number a row, and from there to tokens. They know nothing of models."""

from espo_jax.rewards.correct import correct
from espo_jax.rewards.placement import token_rewards

__all__ = ['correct', 'token_rewards']

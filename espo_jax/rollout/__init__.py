"""Sampling trajectories inside one jitted program. Knows nothing of rewards and losses."""

from espo_jax.rollout.engine import generate
from espo_jax.rollout.sampling import Sampling, sampled_logits

__all__ = ['Sampling', 'generate', 'sampled_logits']

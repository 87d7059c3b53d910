"""Sampling trajectories inside one jitted program. Knows nothing of rewards and losses."""

from espo_jax.rollout.engine import generate
from espo_jax.rollout.sampling import Sampling, sampled_logits
from espo_jax.rollout.speculative import Speculation, speculate

__all__ = ['Sampling', 'Speculation', 'generate', 'sampled_logits', 'speculate']

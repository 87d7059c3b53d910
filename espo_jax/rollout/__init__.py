"""Sampling trajectories inside one jitted program. Knows nothing of rewards and losses."""

from espo_jax.rollout.engine import generate

__all__ = ['generate']

"""Sampling trajectories inside one jitted program. Knows nothing of rewards and losses."""

from espo_jax.rollout.engine import generate
from espo_jax.rollout.sampler import Sampler
from espo_jax.rollout.sampling import Sampling, sampled_logits
from espo_jax.rollout.serial import Serial, generate_serial, row_steps
from espo_jax.rollout.speculative import Speculation, speculate

__all__ = [
  'Sampler',
  'Sampling',
  'Serial',
  'Speculation',
  'generate',
  'generate_serial',
  'row_steps',
  'sampled_logits',
  'speculate',
]

"""Allocators: which problems of a pool a rollout has, and how many rows each.

They run on the host, between rollouts, and are pure functions of NumPy arrays. Each file registers one method.

The bandits `ucb1`, `thompson` and `exp3` are a curriculum: they learn how hard problems should be to tell the policy most. What
they have in common is in `arms.py`.
"""

from espo_jax.registry import import_files
from espo_jax.tasks.allocators.registered import ALLOCATORS, Allocator, Seen, make_allocator, register
from espo_jax.tasks.allocators.stream import Stream

import_files(__name__, __path__)

__all__ = ['ALLOCATORS', 'Allocator', 'Seen', 'Stream', 'make_allocator', 'register']

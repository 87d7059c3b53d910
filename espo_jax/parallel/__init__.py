"""Meshes and shardings. Knows nothing of reinforcement learning."""

from espo_jax.parallel.mesh import BATCH, make_mesh, mesh_shape, over_batch, param_shardings, replicated

__all__ = ['BATCH', 'make_mesh', 'mesh_shape', 'over_batch', 'param_shardings', 'replicated']

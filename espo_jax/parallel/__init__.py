"""Meshes and shardings. Knows nothing of reinforcement learning."""

from espo_jax.parallel.mesh import BATCH, constrain, make_mesh, mesh_shape, over_batch, param_shardings, replicated

__all__ = ['BATCH', 'constrain', 'make_mesh', 'mesh_shape', 'over_batch', 'param_shardings', 'replicated']

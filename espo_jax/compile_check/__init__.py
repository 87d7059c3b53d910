"""Compiles the programs of training for devices that need not exist, and analyses their memory, cost and collectives."""

from espo_jax.compile_check.chips import CHIPS, roofline
from espo_jax.compile_check.programs import PROGRAMS, Programs
from espo_jax.compile_check.slices import memory_limit, topology_mesh
from espo_jax.compile_check.verdict import GIB, Checked, check, report

__all__ = ['CHIPS', 'GIB', 'PROGRAMS', 'Checked', 'Programs', 'check', 'memory_limit', 'report', 'roofline', 'topology_mesh']

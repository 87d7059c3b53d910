"""Searches: the arms of a sweep that are proposed one by one, each from the results of those before.

A search is a function of the space, of the arms that were tried and of a seed, so it proposes alike after an interruption. The
value of an arm is the mean over the seeds of its training accuracy at the end. The test split is not read.

| search | proposes |
|---|---|
| `random` | whatever the space has |
| `tpe` | what is likely among the good arms, field by field |
| `bohb` | the same over all fields at once, and a third at random; with the early end `hyperband` it is BOHB's recipe |
"""

from espo_jax.registry import import_files
from espo_jax.sweep.searches.registered import REGISTRY, register
from espo_jax.sweep.searches.space import Proposer, Space, Tried

import_files(__name__, __path__)

__all__ = ['REGISTRY', 'Proposer', 'Space', 'Tried', 'register']

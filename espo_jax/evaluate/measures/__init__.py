"""Measures of an evaluation's answers beside accuracy and tokens.

| measure | tells | where it is written |
|---|---|---|
| `aucm` | right, wrong and stopped answers to problems that can be answered and that cannot | `summary.json`, with `--stop` |
| `erde` | how early a stop rule notices failures | `summary.json`, with `--stop` |
| `flop_matched_eval` | one long answer against the short ones that cost as much | page of `scripts/measure_equal_flops.py` |
| `is_cv_estimate` | what another checkpoint would do | `estimate-ARM-STEP.json`, with `--estimate` |
"""

from espo_jax.evaluate.measures.aucm import Abstention, aucm
from espo_jax.evaluate.measures.erde import erde
from espo_jax.evaluate.measures.flop_matched_eval import FlopMatched, flop_matched_eval
from espo_jax.evaluate.measures.is_cv_estimate import Estimate, is_cv_estimate
from espo_jax.evaluate.measures.registered import READS, REGISTRY, register
from espo_jax.registry import import_files

import_files(__name__, __path__)

__all__ = [
  'READS',
  'REGISTRY',
  'Abstention',
  'Estimate',
  'FlopMatched',
  'aucm',
  'erde',
  'flop_matched_eval',
  'is_cv_estimate',
  'register',
]

"""Diagnostics of a training: advisory warnings, each a line when it begins and the metric `warning/NAME` while it lasts.

Each diagnostic is a function of what the metrics were so far, so a training that is resumed warns alike. None of them ends or
changes a run.

| diagnostic | warns while |
|---|---|
| `all_truncated` | the horizon cuts every row |
| `equal_groups` | no group has rows whose scores differ |
| `entropy_collapse` | the entropy is below a tenth of what it was at first |
| `early_warning` | variance and autocorrelation of a metric rise together |
"""

from espo_jax.monitor.diagnostics.all_truncated import all_truncated
from espo_jax.monitor.diagnostics.asking import Diagnosis
from espo_jax.monitor.diagnostics.early_warning import Slowing, early_warning, kendall, slowing, slows
from espo_jax.monitor.diagnostics.entropy_collapse import entropy_collapse
from espo_jax.monitor.diagnostics.equal_groups import equal_groups
from espo_jax.monitor.diagnostics.registered import READS, REGISTRY, register
from espo_jax.registry import import_files

import_files(__name__, __path__)

__all__ = [
  'READS',
  'REGISTRY',
  'Diagnosis',
  'Slowing',
  'all_truncated',
  'early_warning',
  'entropy_collapse',
  'equal_groups',
  'kendall',
  'register',
  'slowing',
  'slows',
]

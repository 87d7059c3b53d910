"""Writes a run, or several beside each other, as one HTML page: results, curves, and rollouts to read token by token.

The page needs no network and opens from the disk. `runs.py` and `rollouts.py` read what `espo_jax.train` wrote, `curves.py`
thins it, and `page.py` joins it with the files in `assets`.
"""

from espo_jax.report.page import write_page
from espo_jax.report.rollouts import Rollout, read_rollouts
from espo_jax.report.runs import Arm, ReportError, Run, read_runs

__all__ = ['Arm', 'ReportError', 'Rollout', 'Run', 'read_rollouts', 'read_runs', 'write_page']

"""What a run tells its reader: metrics on disk, progress in the terminal, intervals, reports, plots.

Host side only: plain numbers in, files and text out. `espo_jax.monitor.plots` is imported on its own, because it pulls in
matplotlib.
"""

from espo_jax.monitor.environment import describe, write_run_info
from espo_jax.monitor.files import atomic_write_text, to_json
from espo_jax.monitor.intervals import mean_interval, wilson
from espo_jax.monitor.metrics import MetricWriter, column, read_metrics
from espo_jax.monitor.progress import Progress
from espo_jax.monitor.report import arm_label, format_table, summarise, write_summary

__all__ = [
  'MetricWriter',
  'Progress',
  'arm_label',
  'atomic_write_text',
  'column',
  'describe',
  'format_table',
  'mean_interval',
  'read_metrics',
  'summarise',
  'to_json',
  'wilson',
  'write_run_info',
  'write_summary',
]

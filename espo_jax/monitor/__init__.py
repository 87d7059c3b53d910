"""Reports on a run: metrics on disk, progress in the terminal, confidence intervals, reports and plots.

This room runs on the host only. It takes plain numbers and writes files and text. `espo_jax.monitor.plots` is imported
separately, because it imports matplotlib.
"""

from espo_jax.monitor.environment import describe, machine, write_run_info
from espo_jax.monitor.estimators import bootstrap_intervals, majority, pass_at_k, resampled_means
from espo_jax.monitor.files import atomic_write_arrays, atomic_write_figure, atomic_write_text, ending, to_json
from espo_jax.monitor.glossary import glossary_page, meaning
from espo_jax.monitor.intervals import holm, mean_interval, mean_p_value, paired_shares, wilson
from espo_jax.monitor.metrics import MetricWriter, column, policy_accuracy, read_metrics, write_table, write_texts
from espo_jax.monitor.mirror import TRACKERS, mirrored
from espo_jax.monitor.pictures import spared
from espo_jax.monitor.progress import Progress
from espo_jax.monitor.report import arm_label, costs, evaluation_results, format_table, results_table, summarise, write_summary
from espo_jax.monitor.samples import OutputError, SampleWriter, read_samples
from espo_jax.monitor.scores import format_columns, format_scores, percent_cells, summarise_samples, with_intervals

__all__ = [
  'TRACKERS',
  'MetricWriter',
  'OutputError',
  'Progress',
  'SampleWriter',
  'arm_label',
  'atomic_write_arrays',
  'atomic_write_figure',
  'atomic_write_text',
  'bootstrap_intervals',
  'column',
  'costs',
  'describe',
  'ending',
  'evaluation_results',
  'format_columns',
  'format_scores',
  'format_table',
  'glossary_page',
  'holm',
  'machine',
  'majority',
  'mean_interval',
  'mean_p_value',
  'meaning',
  'mirrored',
  'paired_shares',
  'pass_at_k',
  'percent_cells',
  'policy_accuracy',
  'read_metrics',
  'read_samples',
  'resampled_means',
  'results_table',
  'spared',
  'summarise',
  'summarise_samples',
  'to_json',
  'wilson',
  'with_intervals',
  'write_run_info',
  'write_summary',
  'write_table',
  'write_texts',
]

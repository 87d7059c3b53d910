"""Turns the metrics of an arm into curves for the page: over updates, over decoded tokens and over seconds."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from espo_jax import monitor

MOST_POINTS = 1000  # of a curve, which is more than a screen shows
ACCURACY, RIGHT_STOPPED, SECONDS = 'policy accuracy', 'right among stopped', 'seconds of an update'
OVER = {'updates': 'update', 'tokens': 'decoded tokens', 'seconds': 'seconds of training'}

Rows = Sequence[Mapping[str, Any]]


class Chart(NamedTuple):
  """A chart that every page has, if a run has its metric.

  Attributes:
    metric: The metric.
    title: What the chart shows.
    percent: Whether the metric is a share, which is shown as a percentage.
  """

  metric: str
  title: str
  percent: bool = False


CHARTS = (
  Chart(
    ACCURACY, 'Training accuracy: as if no row were stopped, if shadow rows tell; else a stopped row counts as wrong', True
  ),
  Chart('eval/accuracy', 'Test accuracy, sampled without stops', True),
  Chart('eval/greedy_accuracy', 'Test accuracy, greedy without stops', True),
  Chart('rollout/length_mean', 'Tokens of a rollout row'),
  Chart('stop/rate', 'Rows that the stop rule ended', True),
  Chart('stop/beta', "The scale of the stop rule's threshold, beta"),
  Chart(RIGHT_STOPPED, 'Right among the stopped rows, by shadow rows, up to the update', True),
  Chart('entropy', 'Entropy of the policy, nats per token'),
  Chart(SECONDS, 'Seconds of an update'),
)


def curves(metrics: Rows) -> dict[str, Any]:
  """Returns the curves of an arm.

  Args:
    metrics: The metrics of its updates.

  Returns:
    `over` has the three horizontal axes: numbers by update. `metrics` has a pair for each metric: the indices of its points
    among the updates, or None where every update is one; and its values. Values are rounded to five significant digits.
  """
  names = sorted({name for row in metrics for name in row if name != 'step'})
  columns = {name: monitor.column(metrics, name) for name in names}
  seconds = sum((np.nan_to_num(columns[name]) for name in names if name.startswith('seconds/')), np.zeros(len(metrics)))
  tokens = columns.get('rollout/decoded')
  if tokens is None:
    tokens = np.cumsum(np.nan_to_num(monitor.column(metrics, 'rollout/tokens')))
  columns |= {ACCURACY: np.array([monitor.policy_accuracy(row) for row in metrics]), SECONDS: seconds}
  if 'stop/shadow_rows' in columns:
    columns[RIGHT_STOPPED] = _running_share(columns['stop/shadow_correct'], columns['stop/shadow_rows'])
  over = {'updates': monitor.column(metrics, 'step'), 'tokens': tokens, 'seconds': np.cumsum(seconds)}
  return {
    'over': {name: _rounded(x) for name, x in over.items()},
    'metrics': {name: point for name, x in columns.items() if (point := _points(x)) is not None},
  }


def _running_share(part: Float[np.ndarray, ' U'], whole: Float[np.ndarray, ' U']) -> Float[np.ndarray, ' U']:
  counted = np.cumsum(np.nan_to_num(whole))
  return np.where(counted > 0, np.cumsum(np.nan_to_num(part)) / np.maximum(counted, 1), np.nan)


def _points(values: Float[np.ndarray, ' U']) -> tuple[list[int] | None, list[float]] | None:
  """Returns the indices and the values of the points that are drawn; None if there are none."""
  at = np.flatnonzero(np.isfinite(values))
  if not at.size:
    return None
  if at.size > MOST_POINTS:
    at = at[np.unique(np.linspace(0, at.size - 1, MOST_POINTS).round().astype(int))]
  return None if at.size == values.size else at.tolist(), _rounded(values[at])


def _rounded(values: Float[np.ndarray, ' U']) -> list[float]:
  return [float(f'{value:.5g}') if abs(value) < 1e5 else float(f'{value:.9g}') for value in values.tolist()]

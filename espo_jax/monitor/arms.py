"""Draws a comparison over seeds: learning curves with the spread over seeds, and the final results of the arms."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from espo_jax.monitor.files import atomic_write_figure
from espo_jax.monitor.intervals import mean_interval
from espo_jax.monitor.metrics import column
from espo_jax.monitor.plots import smoothed
from espo_jax.monitor.style import BASELINE, COLOURS, STYLE, keep_to_shares


@runtime_checkable
class Recorded(Protocol):
  """A run whose metrics and results are recorded."""

  @property
  def metrics(self) -> list[dict[str, Any]]:
    """The metrics, one entry per update."""

  @property
  def summary(self) -> Mapping[str, Any]:
    """The results, by name."""


def plot_arms(
  path: Path,
  arms: Mapping[str, Sequence[Recorded]],
  baseline: str,
  curves: Sequence[str],
  scatter: tuple[str, str],
) -> None:
  """Draw one panel per metric over the updates, and one panel of two results against each other.

  Args:
    path: The path of the PNG.
    arms: The runs of each arm by the arm's name, one run per seed.
    baseline: The arm that is drawn in grey.
    curves: The metrics. A curve is smoothed and averaged over seeds, in a band from the lowest to the highest seed.
    scatter: The two results. Each seed is a point, and the mean has 95 % intervals.
  """
  others = [arm for arm in arms if arm != baseline]
  colours = {baseline: BASELINE, **{arm: COLOURS[i % len(COLOURS)] for i, arm in enumerate(others)}}
  with matplotlib.rc_context(STYLE):
    figure = Figure(figsize=(5 * (len(curves) + 1), 4.2), layout='constrained')
    panels = figure.subplots(1, len(curves) + 1, squeeze=False)[0]
    for axes, name in zip(panels, curves, strict=False):
      for arm, runs in arms.items():
        _curve(axes, arm, runs, name, colours[arm])
      axes.set_title(name)
      axes.set_xlabel('update')
      axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    for arm, runs in arms.items():
      _points(panels[-1], runs, scatter, colours[arm])
    panels[-1].set_title(f'{scatter[1]} over {scatter[0]}')
    panels[-1].set_xlabel(scatter[0])
    for axes, name in zip(panels, (*curves, scatter[1]), strict=True):
      if name.endswith('accuracy'):  # an accuracy is a share; a difference of accuracies is in points
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        keep_to_shares(axes, 'y')
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc='outside lower center', ncols=len(arms))
    atomic_write_figure(path, figure)


def _curve(axes: Axes, arm: str, runs: Sequence[Recorded], name: str, colour: str) -> None:
  if not runs:
    return
  length = min(len(run.metrics) for run in runs)
  values = np.array([smoothed(column(run.metrics, name)[:length]) for run in runs])
  steps = column(runs[0].metrics, 'step')[:length]
  axes.fill_between(steps, values.min(axis=0), values.max(axis=0), color=colour, alpha=0.15, linewidth=0)
  axes.plot(steps, values.mean(axis=0), color=colour, label=arm)


def _points(axes: Axes, runs: Sequence[Recorded], scatter: tuple[str, str], colour: str) -> None:
  if not runs:
    return
  x, y = (np.array([run.summary[name] for run in runs], float) for name in scatter)
  axes.plot(x, y, 'o', color=colour, alpha=0.4, markersize=4)
  (x_mean, x_half), (y_mean, y_half) = mean_interval(x), mean_interval(y)
  x_error, y_error = (x_half, y_half) if len(runs) > 1 else (None, None)  # a single run has no spread
  axes.errorbar(x_mean, y_mean, y_error, x_error, fmt='o', color=colour, markersize=8, markeredgecolor='white', linewidth=1)

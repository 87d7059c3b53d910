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
  over: str = 'step',
) -> None:
  """Draw one panel per metric over the course of the training, and one panel of two results against each other.

  Args:
    path: The path of the PNG.
    arms: The runs of each arm by the arm's name, one run per seed.
    baseline: The arm that is drawn in grey.
    curves: The metrics. A curve is averaged over seeds, in a band from the lowest to the highest seed. It is smoothed if every
      update has the metric.
    scatter: The two results. Each seed is a point, and the mean has 95 % intervals.
    over: The metric on the horizontal axis of the curves, averaged over seeds at each update.
  """
  others = [arm for arm in arms if arm != baseline]
  colours = {baseline: BASELINE, **{arm: COLOURS[i % len(COLOURS)] for i, arm in enumerate(others)}}
  dashed = others[len(COLOURS) :]  # their colours are those of other arms
  with matplotlib.rc_context(STYLE):
    figure = Figure(figsize=(5 * (len(curves) + 1), 4.2), layout='constrained')
    panels = figure.subplots(1, len(curves) + 1, squeeze=False)[0]
    for axes, name in zip(panels, curves, strict=False):
      for arm, runs in arms.items():
        _curve(axes, arm, runs, (over, name), colours[arm], '--' if arm in dashed else '-')
      axes.set_title(name)
      axes.set_xlabel('update' if over == 'step' else over)
      axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    for arm, runs in arms.items():
      _points(panels[-1], runs, scatter, colours[arm])
    panels[-1].set_title(f'{scatter[1]} over {scatter[0]}')
    panels[-1].set_xlabel(scatter[0])
    for axes, name in zip(panels, (*curves, scatter[1]), strict=True):
      if name.endswith('accuracy'):  # an accuracy is a share; a difference of accuracies is in points
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        keep_to_shares(axes, 'y')
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc='outside lower center', ncols=min(len(arms), 6))
    atomic_write_figure(path, figure)


def _curve(axes: Axes, arm: str, runs: Sequence[Recorded], names: tuple[str, str], colour: str, line: str) -> None:
  if not runs:
    return
  length = min(len(run.metrics) for run in runs)
  x, y = (np.array([column(run.metrics, name)[:length] for run in runs]) for name in names)
  known = ~np.isnan(y).all(axis=0)
  x, y = x.mean(axis=0)[known], np.array([smoothed(its) for its in y]) if known.all() else y[:, known]
  axes.fill_between(x, y.min(axis=0), y.max(axis=0), color=colour, alpha=0.15, linewidth=0)
  axes.plot(x, y.mean(axis=0), line, color=colour, label=arm)


def _points(axes: Axes, runs: Sequence[Recorded], scatter: tuple[str, str], colour: str) -> None:
  if not runs:
    return
  x, y = (np.array([run.summary[name] for run in runs], float) for name in scatter)
  axes.plot(x, y, 'o', color=colour, alpha=0.4, markersize=4)
  (x_mean, x_half), (y_mean, y_half) = mean_interval(x), mean_interval(y)
  x_error, y_error = (x_half, y_half) if len(runs) > 1 else (None, None)  # a single run has no spread
  axes.errorbar(x_mean, y_mean, y_error, x_error, fmt='o', color=colour, markersize=8, markeredgecolor='white', linewidth=1)

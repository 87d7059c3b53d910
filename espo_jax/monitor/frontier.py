"""Draws what stop rules save and lose."""

import itertools
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from espo_jax.monitor.files import atomic_write_figure
from espo_jax.monitor.style import BASELINE, COLOURS, STYLE, keep_to_shares

_MARKERS = 'sD^vPX'
_ABOVE_ALL_LINES = 10  # zorder


def plot_frontier(
  points: Mapping[str, Sequence[Mapping[str, Any]]],
  best: Mapping[str, Mapping[str, Any]],
  reference: str,
  studied: str,
  unstopped: float,
  path: str | os.PathLike[str],
) -> None:
  """Draw solved problems lost against tokens saved, and tokens per solved problem against tokens saved.

  The studied rule is drawn on top, with a dashed line and black outlines of its marks. Each rule below it has a wider line and
  larger marks, so that rules with equal results are all visible.

  Args:
    points: The points of each rule, with `saved`, `false_positives` and `tokens_per_solved`. The left panel joins the points
      that no other point of their rule beats in both measures.
    best: The marked point of each rule.
    reference: The rule that is drawn in grey, at the bottom.
    studied: The rule that is drawn on top.
    unstopped: The tokens per solved problem without a stop rule.
    path: The path of the PNG.
  """
  points = {rule: its for rule, its in points.items() if its}
  order = sorted(points, key=lambda rule: (rule == studied, rule != reference))
  colours = dict(zip((rule for rule in points if rule != reference), itertools.cycle(COLOURS), strict=False))
  with matplotlib.rc_context(STYLE):
    figure = Figure(figsize=(11, 4.2), layout='constrained')
    lost, cost = figure.subplots(1, 2)
    for level, rule in enumerate(order):
      below = len(order) - 1 - level  # the number of rules above this one
      shape, dashes, edge = ('o', '--', 'black') if rule == studied else (_MARKERS[level % len(_MARKERS)], '-', 'white')
      look: dict[str, Any] = {'marker': shape, 'color': colours.get(rule, BASELINE)}
      for axes, name, scale in ((lost, 'false_positives', 100), (cost, 'tokens_per_solved', 1)):
        front = _front([(100 * p['saved'], scale * p[name]) for p in points[rule]])
        width = {'linewidth': 1.6 + below, 'markersize': 3.5 + 1.6 * below, 'linestyle': dashes}
        axes.plot(*zip(*front, strict=True), **look, **width, label=rule, zorder=2 + 0.1 * level)
        if rule in best:
          mark = {'markersize': 8 + 4 * below, 'markeredgecolor': edge, 'linestyle': '', 'zorder': _ABOVE_ALL_LINES + level}
          axes.plot(100 * best[rule]['saved'], scale * best[rule][name], **look, **mark)
    if math.isfinite(unstopped):
      cost.axhline(unstopped, color='0.6', linewidth=0.8, zorder=0)
      cost.set_ylim(top=1.5 * unstopped)
    for axes in (lost, cost):
      keep_to_shares(axes, 'x', 100)
    keep_to_shares(lost, 'y', 100)
    for line in lost.lines:
      line.set_clip_on(False)  # marks at the ends of the axes are not cut off
    lost.set(xlabel='tokens saved, %', ylabel='solved problems lost, %', title='What is lost for what is saved')
    cost.set(xlabel='tokens saved, %', ylabel='tokens', title='Expected tokens per solved problem')
    handles = dict(zip(*reversed(lost.get_legend_handles_labels()), strict=True))
    figure.legend([handles[rule] for rule in points], list(points), loc='outside lower center', ncols=len(points))
    atomic_write_figure(path, figure)


def _front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
  """Returns, in order, the points for which no other point has at least as large an x and a smaller y."""
  front: list[tuple[float, float]] = []
  for x, y in sorted(points, key=lambda point: (-point[0], point[1])):
    if not front or y <= front[-1][1]:
      front.append((x, y))
  return front[::-1]

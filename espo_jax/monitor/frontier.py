"""A picture of what stop rules save and lose."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from espo_jax.monitor.plots import BASELINE, COLOURS, STYLE


def plot_frontier(
  points: Mapping[str, Sequence[Mapping[str, Any]]],
  best: Mapping[str, Mapping[str, Any]],
  reference: str,
  unstopped: float,
  path: str | os.PathLike[str],
) -> None:
  """Solved problems lost against tokens saved, and tokens per solved problem against tokens saved.

  Args:
    points: By rule the points `saved`, `false_positives`, `tokens_per_solved`. Of a rule's points the left panel joins those
      that no other one of the rule beats in both.
    best: By rule the point that is marked.
    reference: The rule in grey.
    unstopped: Tokens per solved problem without a rule.
    path: Of the PNG.
  """
  colours = dict(zip((rule for rule in points if rule != reference), COLOURS, strict=False)) | {reference: BASELINE}
  with matplotlib.rc_context(STYLE):
    figure = Figure(figsize=(11, 4.2), layout='constrained')
    lost, cost = figure.subplots(1, 2)
    for i, (rule, its) in enumerate(points.items()):
      size = 18 - 2.5 * i  # what lies on one point is still seen
      for axes, name, scale in ((lost, 'false_positives', 100), (cost, 'tokens_per_solved', 1)):
        front = _front([(100 * p['saved'], scale * p[name]) for p in its])
        axes.plot(*zip(*front, strict=True), marker='o', markersize=3, color=colours[rule], label=rule)
        if rule in best:
          axes.plot(100 * best[rule]['saved'], scale * best[rule][name], '*', markersize=size, color=colours[rule], mec='white')
    cost.axhline(unstopped, color='0.6', linewidth=0.8, zorder=0)
    cost.set_ylim(top=1.5 * unstopped)
    lost.set(xlabel='tokens saved, %', ylabel='solved problems lost, %', title='What is lost for what is saved')
    cost.set(xlabel='tokens saved, %', ylabel='tokens', title='Expected tokens per solved problem')
    figure.legend(*lost.get_legend_handles_labels(), loc='outside lower center', ncols=len(points))
    figure.savefig(Path(path))


def _front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
  """The points for which no other one has as much of the first and less of the second, in order."""
  front: list[tuple[float, float]] = []
  for x, y in sorted(points, key=lambda point: (-point[0], point[1])):
    if not front or y <= front[-1][1]:
      front.append((x, y))
  return front[::-1]

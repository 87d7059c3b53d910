"""Draws the accuracy of decoders over the tokens that they spend."""

import itertools
import os
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

from espo_jax.monitor.files import atomic_write_figure
from espo_jax.monitor.style import BASELINE, COLOURS, STYLE, keep_to_shares

_REFERENCE = 'majority'  # drawn in grey
_MARKERS = 'osD^vPX'


def plot_decoders(curves: Mapping[str, Sequence[Mapping[str, Any]]], path: str | os.PathLike[str]) -> None:
  """Draw the accuracy over the tokens per problem, with 95 % intervals of the accuracy as bands.

  Args:
    curves: The points of each decoder by its label. A point has `accuracy` and `tokens`, each with `value` and `interval`.
    path: The path of the PNG.
  """
  looks = zip(itertools.cycle(COLOURS), itertools.cycle(_MARKERS), strict=False)
  with matplotlib.rc_context(STYLE):
    figure = Figure(figsize=(7.6, 5.2), layout='constrained')
    axes = figure.subplots()
    for label, curve in curves.items():
      colour, marker = (BASELINE, '') if label == _REFERENCE else next(looks)
      tokens = [point['tokens']['value'] for point in curve]
      low, high = zip(*([100 * end for end in point['accuracy']['interval']] for point in curve), strict=True)
      accuracy = [100 * point['accuracy']['value'] for point in curve]
      axes.fill_between(tokens, low, high, color=colour, alpha=0.08, linewidth=0)
      axes.plot(tokens, accuracy, marker=marker, markersize=3.5, color=colour, label=label)
    axes.set_xscale('log')
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(EngFormatter(sep=''))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set(xlabel='tokens per problem', ylabel='accuracy, %', title='What decoders make of the same samples')
    keep_to_shares(axes, 'y', 100)
    figure.legend(loc='outside lower center', ncols=2)
    atomic_write_figure(path, figure)

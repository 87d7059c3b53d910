"""Draws the depth of early exits: accuracy against depth, and tokens coloured by the number of blocks they ran through."""

import itertools
import os
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from espo_jax.monitor.files import atomic_write_figure
from espo_jax.monitor.style import MONO, STYLE, keep_to_shares, shortened, visible

_COLUMNS = 32  # tokens in a line of the grid
_MOST_LINES = 12  # the most lines of a rollout in the grid
_LABEL, _QUESTION = 6, 80  # characters


def plot_exit_curve(curve: Sequence[Mapping[str, Any]], path: str | os.PathLike[str], policy: str) -> None:
  """Draw the accuracy, sampled and greedy, against the share of the model's blocks that run.

  Args:
    curve: One entry per threshold with `level` (None at full depth), `depth`, `greedy_depth`, `accuracy`, `greedy_accuracy`.
    path: The path of the PNG.
    policy: The name of the exit policy.
  """
  with matplotlib.rc_context(STYLE):
    figure = Figure(figsize=(6.4, 4.0), layout='constrained')
    axes = figure.subplots()
    for prefix, label, colour in (('', 'sampled', '#0072B2'), ('greedy_', 'greedy', '#D55E00')):
      points = sorted((100 * p[f'{prefix}depth'], 100 * p[f'{prefix}accuracy'], *_level(p['level'])) for p in curve)
      x, y, *_ = zip(*points, strict=True)
      axes.plot(x, y, marker='o', markersize=4, color=colour, label=label, clip_on=False)
      for place, tied in itertools.groupby(points if not prefix else (), key=lambda point: point[:2]):
        text = ', '.join(name for *_, name in tied)  # thresholds with the same result share a label
        axes.annotate(text, place, textcoords='offset points', xytext=(0, 7), ha='center', fontsize=8)
    axes.set(xlabel='blocks run, % of all', ylabel='test accuracy, %')
    axes.set_title(f'Exits by {policy}', pad=20, parse_math=False)  # room for the labels of points at the top
    keep_to_shares(axes, 'x', 100)
    keep_to_shares(axes, 'y', 100)
    axes.legend(loc='best')
    atomic_write_figure(path, figure)


def _level(level: float | None) -> tuple[float, str]:
  """Returns the key by which tied thresholds are sorted, with full depth last, and the label of the threshold."""
  return (np.inf, 'full depth') if level is None else (level, f'{level:g}')


def plot_depth(rows: Sequence[Mapping[str, Any]], layers: int, path: str | os.PathLike[str]) -> None:
  """Draw a grid of tokens coloured by depth, and depth against entropy.

  The depth of a token is the number of blocks that the state from which it was drawn ran through.

  Args:
    rows: The rollouts, each with `question`, `tokens` (texts), `blocks`, `entropy` (nats) and `outcome`. Lists have one entry
      per token. The grid shows the first tokens of a long rollout.
    layers: The number of blocks of the model.
    path: The file of the picture.
  """
  lines = [min(-(-len(row['tokens']) // _COLUMNS), _MOST_LINES) for row in rows]
  with matplotlib.rc_context(STYLE):
    figure = Figure(figsize=(12, 3.6 + 0.34 * sum(lines) + 0.5 * len(rows)), layout='constrained')
    axes = figure.subplots(len(rows) + 1, 1, height_ratios=[*(n + 1 for n in lines), 9])
    for row, count, ax in zip(rows, lines, axes[:-1], strict=True):
      tokens = row['tokens'][: count * _COLUMNS]
      grid = np.full(count * _COLUMNS, np.nan)
      grid[: len(tokens)] = row['blocks'][: len(tokens)]
      ax.imshow(grid.reshape(count, _COLUMNS), cmap='viridis', vmin=0, vmax=layers, aspect='auto')
      for i, token in enumerate(tokens):
        shade = 'black' if row['blocks'][i] > 0.6 * layers else 'white'
        text, place = visible(token, _LABEL), (i % _COLUMNS, i // _COLUMNS)
        ax.text(*place, text, ha='center', va='center', color=shade, family=MONO, fontsize=6, parse_math=False)
      part = f', first {len(tokens)} of {len(row["tokens"])} tokens' if len(tokens) < len(row['tokens']) else ''
      ax.set_title(f'{row["outcome"]}{part}: {shortened(row["question"], _QUESTION)}', parse_math=False)
      ax.set(xticks=[], yticks=[])
      ax.grid(visible=False)
    figure.colorbar(axes[0].images[0], ax=list(axes[:-1]), label='blocks run', shrink=0.8)
    entropy, blocks = (np.concatenate([row[name] for row in rows]) for name in ('entropy', 'blocks'))
    jitter = np.random.default_rng(0).uniform(-0.2, 0.2, len(blocks))
    axes[-1].scatter(entropy, blocks + jitter, s=8, alpha=0.5, color='#0072B2', linewidths=0)
    axes[-1].set(xlabel='entropy of the distribution that the token was drawn from, nats', ylabel='blocks run')
    axes[-1].set_title('Depth against uncertainty')
    atomic_write_figure(path, figure)

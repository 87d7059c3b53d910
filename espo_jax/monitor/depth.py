"""Pictures of how deep tokens are read: accuracy against depth, and tokens coloured by where they left."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from espo_jax.monitor.plots import STYLE

_VISIBLE = str.maketrans({' ': '␣', '\n': '↵', '\t': '⇥', 'Ġ': '␣', 'Ċ': '↵', '▁': '␣'})
_COLUMNS = 32  # tokens in a line of the grid


def plot_exit_curve(curve: Sequence[Mapping[str, Any]], path: str | os.PathLike[str]) -> None:
  """Accuracy, sampled and greedy, against the share of the model's blocks that run.

  Args:
    curve: By threshold: `level`, None at full depth; `depth`, `greedy_depth`, `accuracy`, `greedy_accuracy`.
    path: Of the PNG.
  """
  with matplotlib.rc_context(STYLE):
    figure = Figure(figsize=(6.4, 4.0), layout='constrained')
    axes = figure.subplots()
    for prefix, label, colour in (('', 'sampled', '#0072B2'), ('greedy_', 'greedy', '#D55E00')):
      points = sorted((100 * p[f'{prefix}depth'], 100 * p[f'{prefix}accuracy'], p['level']) for p in curve)
      axes.plot(*zip(*[point[:2] for point in points], strict=True), marker='o', markersize=4, color=colour, label=label)
      for depth, accuracy, level in points if not prefix else ():
        text = 'full depth' if level is None else f'{level:g}'
        axes.annotate(text, (depth, accuracy), textcoords='offset points', xytext=(0, 7), ha='center', fontsize=8)
    axes.set(xlabel='blocks run, % of all', ylabel='test accuracy, %', title='Exits by a threshold on their heads')
    axes.legend(loc='lower right')
    figure.savefig(Path(path))


def plot_depth(rows: Sequence[Mapping[str, Any]], layers: int, path: str | os.PathLike[str]) -> None:
  """A grid of tokens coloured by the blocks that the states they were drawn from ran through, and depth against entropy.

  Args:
    rows: Rollouts: `prompt`, `tokens`, `blocks`, `entropy` (nats), `outcome`; lists have an entry a token.
    layers: Blocks of the model.
    path: Of the PNG.
  """
  lines = [-(-len(row['tokens']) // _COLUMNS) for row in rows]
  with matplotlib.rc_context(STYLE):
    figure = Figure(figsize=(12, 3.6 + 0.34 * sum(lines) + 0.5 * len(rows)), layout='constrained')
    axes = figure.subplots(len(rows) + 1, 1, height_ratios=[*(n + 1 for n in lines), 9])
    for row, count, ax in zip(rows, lines, axes[:-1], strict=True):
      grid = np.full(count * _COLUMNS, np.nan)
      grid[: len(row['tokens'])] = row['blocks']
      ax.imshow(grid.reshape(count, _COLUMNS), cmap='viridis', vmin=0, vmax=layers, aspect='auto')
      for i, token in enumerate(row['tokens']):
        shade = 'black' if row['blocks'][i] > 0.6 * layers else 'white'
        text = token.translate(_VISIBLE)[:6]
        ax.text(i % _COLUMNS, i // _COLUMNS, text, ha='center', va='center', color=shade, fontsize=8, parse_math=False)
      ax.set_title(f'{row["outcome"]}: {" ".join(row["prompt"].split())[-90:]}', parse_math=False)
      ax.set(xticks=[], yticks=[])
      ax.grid(visible=False)
    figure.colorbar(axes[0].images[0], ax=list(axes[:-1]), label='blocks run', shrink=0.8)
    entropy, blocks = (np.concatenate([row[name] for row in rows]) for name in ('entropy', 'blocks'))
    jitter = np.random.default_rng(0).uniform(-0.2, 0.2, len(blocks))
    axes[-1].scatter(entropy, blocks + jitter, s=8, alpha=0.5, color='#0072B2', linewidths=0)
    axes[-1].set(xlabel='entropy of the distribution that the token was drawn from, nats', ylabel='blocks run')
    axes[-1].set_title('Depth against uncertainty')
    figure.savefig(Path(path))

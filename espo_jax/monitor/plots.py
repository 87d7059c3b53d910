"""Draws pictures of a finished or running experiment, as PNGs in `<workdir>/plots`."""

import itertools
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from jaxtyping import Bool, Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator, PercentFormatter

from espo_jax.monitor.examples import Example, choose, draw, read_examples
from espo_jax.monitor.files import atomic_write_figure
from espo_jax.monitor.metrics import column, read_metrics
from espo_jax.monitor.pictures import spared
from espo_jax.monitor.report import arm_label
from espo_jax.monitor.style import BASELINE, COLOURS, STYLE, keep_to_shares

_METHOD = 'espo'  # the arm that takes the first colour and whose rollouts are shown
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Arm:
  name: str
  colour: str
  rows: list[dict[str, Any]]

  @property
  def label(self) -> str:
    return arm_label(self.name)

  def column(self, name: str) -> Float[np.ndarray, ' rows']:
    return column(self.rows, name)

  def has(self, name: str) -> bool:
    return bool(np.isfinite(self.column(name)).any())

  @property
  def stopping(self) -> Bool[np.ndarray, ' rows']:
    """The updates in which the stop rule was enabled."""
    return self.column('stop/enabled') == 1

  @property
  def tokens(self) -> Float[np.ndarray, ' rows']:
    """The rollout tokens up to each update, the update's own tokens included."""
    return np.cumsum(np.nan_to_num(self.column('rollout/tokens')))


def plot_all(workdir: str | os.PathLike[str], arms: Sequence[str], baseline: str) -> list[Path]:
  """Draws every picture that the recorded files allow.

  Args:
    workdir: the folder with `arms/<arm>/metrics.jsonl` and, for the rollouts, `arms/<arm>/examples.json`.
    arms: the arms to show.
    baseline: the arm that savings refer to.

  Returns:
    The files written. Missing data is noted in the log and in the panel that would have shown it. A picture that cannot be
    drawn gives a warning.
  """
  folder = Path(workdir) / 'plots'
  loaded = _load(Path(workdir), arms, baseline)
  examples = _load_examples(Path(workdir), [arm for arm in arms if arm != baseline] or arms)
  pictures: dict[str, Callable[[], Figure]] = {
    'accuracy_and_length': lambda: _accuracy_and_length(loaded),
    'tokens_saved': lambda: _tokens_saved(loaded, baseline),
    'stop_rate_and_beta': lambda: _stop_rate_and_beta(loaded),
    'overview': lambda: _overview(loaded, baseline, examples),
  }
  if examples:
    pictures['regret_traces'] = lambda: _regret_traces(examples)
  written = []
  with matplotlib.rc_context(STYLE):
    for name, picture in pictures.items():
      path = folder / f'{name}.png'
      with spared(path):
        atomic_write_figure(path, picture())
        written.append(path)
  return written


def _load(workdir: Path, arms: Sequence[str], baseline: str) -> list[_Arm]:
  loaded = []
  others = sorted((arm for arm in arms if arm != baseline), key=lambda arm: arm != _METHOD)
  colours = {baseline: BASELINE, **dict(zip(others, COLOURS * len(arms), strict=False))}
  for name in arms:
    try:
      loaded.append(_Arm(name, colours[name], read_metrics(workdir / 'arms' / name)))
    except FileNotFoundError as error:
      _log.warning('arm %s is left out of the plots: no %s', name, error.filename)
  return loaded


def _load_examples(workdir: Path, arms: Sequence[str]) -> list[Example]:
  """Reads the example rollouts of ESPO, or of the first arm that has any if ESPO has none."""
  for name in sorted(arms, key=lambda arm: arm != _METHOD):
    path = workdir / 'arms' / name / 'examples.json'
    if path.exists():
      with spared(path):
        if examples := read_examples(path):
          return examples
  _log.warning('no rollouts to draw: no arm of %s has an examples.json with regret, z and threshold', list(arms))
  return []


def _accuracy_and_length(arms: Sequence[_Arm]) -> Figure:
  figure = Figure(figsize=(10, 4), layout='constrained')
  left, right = figure.subplots(1, 2)
  _curves(left, arms, *_comparable(arms))
  _percent(left)
  _curves(right, arms, 'rollout/length_mean', 'Mean rollout length (tokens)')
  right.set_ylim(bottom=0)
  return figure


def _tokens_saved(arms: Sequence[_Arm], baseline: str) -> Figure:
  figure = Figure(figsize=(10, 4), layout='constrained')
  left, right = figure.subplots(1, 2)
  paying = [arm for arm in arms if arm.has('rollout/tokens')]
  references = [arm for arm in paying if arm.name == baseline]
  others = [arm for arm in paying if arm.name != baseline]
  for reference, arm in itertools.product(references, others):
    steps, theirs, mine = np.intersect1d(reference.column('step'), arm.column('step'), return_indices=True)
    paid = reference.tokens[theirs]
    saved = paid - arm.tokens[mine]
    left.plot(steps, saved / np.maximum(paid, 1), color=arm.colour, label=arm.label)
    right.plot(steps, saved, color=arm.colour, label=arm.label)
  for axes, title in ((left, 'Rollout tokens saved, share'), (right, 'Rollout tokens saved, total')):
    _finish(axes, f'{title} (against {arm_label(baseline)})', bool(references and others))
    axes.set_xlabel('update')
    axes.axhline(0, color='0.6', linewidth=0.8, zorder=0)
  if any(np.any(np.less(line.get_ydata(), 0)) for line in left.lines):  # more tokens than the baseline give a share below 0
    left.yaxis.set_major_formatter(PercentFormatter(1.0))
  else:
    _percent(left)
  right.yaxis.set_major_formatter(EngFormatter(sep=''))
  return figure


def _stop_rate_and_beta(arms: Sequence[_Arm]) -> Figure:
  figure = Figure(figsize=(10, 4), layout='constrained')
  left, right = figure.subplots(1, 2)
  stopping = [replace(arm, rows=[row for row, on in zip(arm.rows, arm.stopping, strict=True) if on]) for arm in arms]
  _curves(left, stopping, 'stop/rate', 'Share of rollouts stopped')
  left.set_ylim(bottom=0)
  _percent(left)
  _curves(right, stopping, 'stop/beta', r'Threshold factor $\beta$', smooth=False)
  return figure


def _regret_traces(examples: Sequence[Example]) -> Figure:
  chosen = choose(examples, 4)
  figure = Figure(figsize=(10, 2.9 * len(chosen) + 0.6), layout='constrained')
  panels = figure.subplots(len(chosen), 1, squeeze=False)[:, 0]
  handles: dict[str, Any] = {}
  for axes, example in zip(panels, chosen, strict=True):
    handles |= draw(axes, example, question_width=110)
    axes.grid(visible=False, axis='x')
  figure.legend(list(handles.values()), list(handles), loc='outside lower center', ncols=len(handles))
  return figure


def _overview(arms: Sequence[_Arm], baseline: str, examples: Sequence[Example]) -> Figure:
  figure = Figure(figsize=(12, 4.6), layout='constrained')
  left, right = figure.subplots(1, 2, width_ratios=(1, 1.25))
  name, title = _comparable(arms)
  shown = [arm for arm in arms if arm.has(name) and arm.has('rollout/tokens')]
  paid = next((arm.tokens[-1] for arm in shown if arm.name == baseline), None)
  for arm in shown:
    saving = '' if arm.name == baseline or not paid else f' ({100 * (arm.tokens[-1] / paid - 1):+.0f} % tokens)'
    tokens, accuracy = _curve(left, arm, arm.tokens, name, arm.label + saving)
    left.plot(tokens[-1], accuracy[-1], 'o', color=arm.colour, markersize=8, markeredgecolor='white', clip_on=False)
  _finish(left, f'{title} over rollout tokens', bool(shown))
  left.set_xlabel('rollout tokens')
  left.xaxis.set_major_formatter(EngFormatter(sep=''))
  _percent(left)
  stopped = [example for example in choose(examples, 1) if example.stopped]
  if stopped:
    handles = draw(right, stopped[0], question_width=72)
    right.grid(visible=False, axis='x')
    low, high = right.get_ylim()
    right.set_ylim(low, high + 0.3 * (high - low))  # room for the legend
    right.legend(handles.values(), handles, loc='upper left', ncols=2)
  else:
    _finish(right, 'A stopped rollout', drawn=False)
  return figure


def _comparable(arms: Sequence[_Arm]) -> tuple[str, str]:
  """Returns the metric of accuracy that compares arms, and its title.

  The training accuracy counts stopped rows as wrong and leaves out dropped ones, so it is shown only where nothing better was
  recorded.
  """
  if arms and all(np.isfinite(arm.column('accuracy_unstopped')).all() for arm in arms):
    return 'accuracy_unstopped', 'Training accuracy without stops'
  if arms and all(arm.has('eval/accuracy') for arm in arms):
    return 'eval/accuracy', 'Test accuracy'
  return 'accuracy', 'Training accuracy'


def _curves(axes: Axes, arms: Sequence[_Arm], name: str, title: str, smooth: bool = True) -> None:
  shown = [arm for arm in arms if arm.has(name)]
  for arm in shown:
    _curve(axes, arm, arm.column('step'), name, arm.label, smooth)
  _finish(axes, title, bool(shown))
  axes.set_xlabel('update')
  axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _curve(
  axes: Axes, arm: _Arm, x: Float[np.ndarray, ' rows'], name: str, label: str, smooth: bool = True
) -> tuple[Float[np.ndarray, ' points'], Float[np.ndarray, ' points']]:
  """Draws the recorded values of a metric as a smoothed line over a faint line of the raw values. Returns the drawn points."""
  y = arm.column(name)
  x, y = x[np.isfinite(y)], y[np.isfinite(y)]
  if smooth:
    axes.plot(x, y, color=arm.colour, alpha=0.2, linewidth=1)
    y = smoothed(y)
  axes.plot(x, y, color=arm.colour, label=label)
  return x, y


def _percent(axes: Axes) -> None:
  axes.yaxis.set_major_formatter(PercentFormatter(1.0))
  keep_to_shares(axes, 'y')


def _finish(axes: Axes, title: str, drawn: bool) -> None:
  axes.set_title(title)
  if drawn:
    axes.legend(loc='best')
  else:
    axes.text(0.5, 0.5, 'not recorded', transform=axes.transAxes, ha='center', va='center', color='0.4')
    axes.set(xticks=[], yticks=[])


def smoothed(values: Float[np.ndarray, ' points']) -> Float[np.ndarray, ' points']:
  """Returns the centred running mean over a twentieth of the curve. The window shrinks at the ends."""
  reach = len(values) // 40
  return np.array([values[max(i - reach, 0) : i + reach + 1].mean() for i in range(len(values))])

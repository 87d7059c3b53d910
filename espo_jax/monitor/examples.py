"""Reads the recorded example rollouts of an arm, chooses some to show, and shows one as a plot or as HTML for a notebook."""

import html
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes

from espo_jax.monitor.style import BASELINE, MONO, shortened, visible
from espo_jax.parallel.storage import read_json

REGRET, Z, THRESHOLD, STOP = '#A9B7C6', '#0072B2', '#D55E00', '#111111'
_MAX_TOKENS = 48  # more do not fit below an axis
_MAX_LABEL = 8  # characters
_BEFORE = 32  # if a longer rollout is shown in part: the tokens before the token of interest
_UNREACHABLE = 1e30  # a rule that never stops has no threshold
_COLOUR = '213, 94, 0'  # vermillion of Okabe and Ito, the background of a token in HTML
_BREAK = '↵\n'
_QUESTION: dict[str, Any] = {'family': MONO, 'fontsize': 9, 'color': BASELINE, 'parse_math': False}


@dataclass(frozen=True)
class Example:
  """One rollout with the statistics of its stop rule. `correct` is None if the end of the rollout is not known.

  In an episode `turn` has the number of each token's turn, and -1 for a token of an environment, which has no statistics.
  """

  question: str
  tokens: tuple[str, ...]  # the text of each token
  regret: Float[np.ndarray, ' T']
  z: Float[np.ndarray, ' T']
  threshold: Float[np.ndarray, ' T']
  length: int
  full_length: int
  stop_reason: str
  correct: bool | None
  turn: tuple[int, ...] = ()  # empty without an environment

  def observed(self, token: int) -> bool:
    """Returns whether the environment wrote a token."""
    return bool(self.turn) and self.turn[token] < 0

  @property
  def stopped(self) -> bool:
    """Whether the stop rule ended the rollout."""
    return self.stop_reason in ('stopped', 'pruned')

  @property
  def outcome(self) -> str:
    """A description of how the rollout ended."""
    if not self.stopped:
      verdict = {True: 'Right', False: 'Wrong', None: 'Not graded'}[self.correct]
      return f'{verdict}, {"cut at the horizon" if self.stop_reason == "length" else f"ended after {self.length} tokens"}'
    if self.full_length <= self.length:
      return f'Stopped at token {self.length}'
    verdict = {True: ', would have been right', False: ', would have been wrong', None: ''}[self.correct]
    return f'Stopped at token {self.length} of {self.full_length}{verdict}'


def read_examples(path: str | os.PathLike[str]) -> list[Example]:
  """Reads the rollouts in a file `examples.json`. Rollouts without the statistics of a stop rule are left out."""
  return [example for item in read_json(path, list) if (example := _example(item)) is not None]


def choose(examples: Sequence[Example], count: int) -> list[Example]:
  """Chooses at most `count` rollouts, taking outcomes in turn: stopped, right, stopped, wrong."""
  stopped = sorted((e for e in examples if e.stopped), key=_tells_most, reverse=True)
  right = [e for e in examples if not e.stopped and e.correct]
  wrong = [e for e in examples if not e.stopped and not e.correct]
  chosen: list[Example] = []
  while len(chosen) < count and (stopped or right or wrong):
    for kind in (stopped, right, stopped, wrong):
      if kind and len(chosen) < count:
        chosen.append(kind.pop(0))
  return chosen


def draw(axes: Axes, example: Example, question_width: int) -> dict[str, Any]:
  """Draws the regret as bars, z and its threshold as lines, and the stop as a marker. Tokens not trained on are shaded.

  A long rollout is shown in part: the tokens around the stop or, without a stop, those around the point where z came closest to
  the threshold.

  Args:
    axes: the axes to draw on. The outcome becomes their title, with the question below it.
    example: the rollout.
    question_width: the number of characters that fit across the axes.

  Returns:
    The entries of the legend, by label.
  """
  count, end = len(example.regret), example.length
  labelled = len(example.tokens) >= count
  first, last = _window(example) if labelled else (0, count)  # counted from 0, the last one excluded
  shown, x = slice(first, last), np.arange(first + 1, last + 1)
  few = last - first <= _MAX_TOKENS
  legend: dict[str, Any] = {}
  thickness = 1.8 if few else 1.1
  legend['regret $g_t$ (nats)'] = axes.bar(x, example.regret[shown], width=0.7 if few else 1.0, color=REGRET)
  (legend['smoothed regret $z_t$'],) = axes.plot(
    x, example.z[shown], color=Z, linewidth=thickness, marker='o' if few else '', markersize=3.5
  )
  if np.isfinite(example.threshold[shown]).any():
    (legend[r'threshold $\beta\,\max(V_t, \epsilon)$'],) = axes.plot(
      x, example.threshold[shown], color=THRESHOLD, linewidth=thickness, linestyle='--'
    )
  if example.stopped and first < end <= last:
    (legend['stopped'],) = axes.plot(end, example.z[end - 1], 'X', color=STOP, markersize=11, markeredgecolor='white', zorder=5)
  for t in range(first, last):
    if example.observed(t):
      legend['written by the environment'] = axes.axvspan(t + 0.5, t + 1.5, color=Z, alpha=0.12, linewidth=0)
  if end < last:
    legend['decoded for measurement only'] = axes.axvspan(end + 0.5, last + 0.5, color='0.5', alpha=0.12, linewidth=0)
  axes.axhline(0, color='0.6', linewidth=0.8, zorder=0)
  axes.set_xlim(first + 0.4, last + 0.6)
  axes.set_title(example.outcome, loc='left', pad=24)
  question = shortened(example.question, question_width)
  axes.annotate(question, (0, 1), xycoords='axes fraction', xytext=(0, 8), textcoords='offset points', **_QUESTION)
  if labelled:
    labels = [visible(token, _MAX_LABEL) for token in example.tokens[shown]]
    upright = (max(map(len, labels)) + 1) * len(labels) > question_width
    axes.set_xticks(x, labels, parse_math=False, family=MONO, fontsize=8 if upright else 9, rotation=90 if upright else 0)
    axes.tick_params(axis='x', length=0)
  if last - first < count or not labelled:
    axes.set_xlabel('token' if last - first == count else f'tokens {first + 1} to {last} of {count}')
  return legend


def coloured(example: Example) -> str:
  """Returns a rollout as HTML: the question and the tokens, coloured by regret.

  The background of a token is white for a regret of 0 and has full colour for the largest regret of the rollout. The numbers of
  a token are in its title. Line breaks are marked. Tokens decoded after a stop, for measurement only, are grey. Tokens of an
  environment are in italics.
  """
  regret = np.nan_to_num(example.regret)
  most = max(float(regret.max()), 1e-9)
  spans = []
  for t, token in enumerate(example.tokens[: len(example.regret)]):
    numbers = f'regret {example.regret[t]:.3f}, z {example.z[t]:.3f}, threshold {example.threshold[t]:.3f}'
    ink = 'color: #999; ' if t >= example.length else ''
    ground = f'background: rgba({_COLOUR}, {max(float(regret[t]), 0.0) / most:.2f})'
    if example.observed(t):
      numbers, ink, ground = 'written by the environment', '', f'color: {Z}; font-style: italic'
    spans.append(f'<span title="{numbers}" style="{ink}{ground}">{html.escape(token).replace(chr(10), _BREAK)}</span>')
    if example.stopped and t == example.length - 1:
      spans.append('<b title="the stop rule ended it here">&#9632;</b>')
  question, outcome = html.escape(example.question), html.escape(example.outcome)
  style = 'font-family: monospace; white-space: pre-wrap; overflow-wrap: anywhere; margin-bottom: 1em'
  return f'<div style="{style}"><b>{outcome}</b>\n<span style="color: #5F6B7A">{question}</span>\n{"".join(spans)}</div>'


def _window(example: Example) -> tuple[int, int]:
  """Returns the first token to show and the one after the last; all tokens are shown if they fit."""
  count = len(example.regret)
  if count <= _MAX_TOKENS:
    return 0, count
  if example.stopped:
    centre = example.length - 1
  else:
    margin = example.z - example.threshold
    centre = int(np.nanargmax(margin)) if np.isfinite(margin).any() else 0
  first = min(max(centre - _BEFORE, 0), count - _MAX_TOKENS)
  return first, first + _MAX_TOKENS


def _tells_most(example: Example) -> tuple[bool, int]:
  return example.correct is not True, min(len(example.regret), _MAX_TOKENS) - max(len(example.regret) - _MAX_TOKENS, 0)


def _example(item: Mapping[str, Any]) -> Example | None:
  try:
    regret, z, threshold = (np.array(item[name], dtype=np.float64) for name in ('regret', 'z', 'threshold'))
    length, stop_reason = int(item['length']), str(item['stop_reason'])
  except KeyError:
    return None
  turn = tuple(map(int, item.get('turn', ())))
  if not len(regret) == len(z) == len(threshold) == (len(turn) or len(regret)) > 0:
    return None
  seen = np.array(turn or np.zeros(len(regret)), int) < 0
  return Example(
    question=item.get('question', ''),
    tokens=tuple(item.get('tokens', ())),
    regret=np.where(seen, np.nan, regret),
    z=np.where(seen, np.nan, z),
    threshold=np.where((threshold < _UNREACHABLE) & ~seen, threshold, np.nan),
    length=length,
    full_length=int(item.get('full_length', length)),
    stop_reason=stop_reason,
    correct=item.get('correct'),
    turn=turn,
  )

"""Recorded rollouts of an arm: reading them, choosing some to show, drawing one."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes

REGRET, Z, THRESHOLD, STOP = '#A9B7C6', '#0072B2', '#D55E00', '#111111'
_MAX_LABELS = 48  # more tokens than this do not fit below an axis
_MAX_LABEL = 6  # characters
_PROMPT: dict[str, Any] = {'family': 'DejaVu Sans Mono', 'fontsize': 9, 'fontweight': 'normal', 'color': '#5F6B7A'}
_VISIBLE = str.maketrans({' ': '␣', '\n': '↵', '\t': '⇥', 'Ġ': '␣', 'Ċ': '↵', '▁': '␣'})


@dataclass(frozen=True)
class Example:
  """One rollout with the statistics of its stop rule; `correct` is None where its end was never seen."""

  prompt: str
  tokens: tuple[str, ...]
  regret: Float[np.ndarray, ' T']
  z: Float[np.ndarray, ' T']
  threshold: Float[np.ndarray, ' T']
  length: int
  full_length: int
  stop_reason: str
  correct: bool | None

  @property
  def stopped(self) -> bool:
    """Whether the stop rule ended it."""
    return self.stop_reason == 'stopped'

  @property
  def outcome(self) -> str:
    """How it ended, in words."""
    if not self.stopped:
      verdict = {True: 'Right', False: 'Wrong', None: 'Not graded'}[self.correct]
      return f'{verdict}, {"cut at the horizon" if self.stop_reason == "length" else f"ended after {self.length} tokens"}'
    if self.full_length <= self.length:
      return f'Stopped at token {self.length}'
    verdict = {True: ', would have been right', False: ', would have been wrong', None: ''}[self.correct]
    return f'Stopped at token {self.length} of {self.full_length}{verdict}'


def read_examples(path: str | os.PathLike[str]) -> list[Example]:
  """The rollouts in a file `examples.json`; those that lack a key of the stop rule are left out."""
  return [example for item in json.loads(Path(path).read_text()) if (example := _example(item)) is not None]


def choose(examples: Sequence[Example], count: int) -> list[Example]:
  """At most `count` rollouts, kinds of outcome in turn: stopped, right, stopped, wrong."""
  stopped = sorted((e for e in examples if e.stopped), key=_tells_most, reverse=True)
  right = [e for e in examples if not e.stopped and e.correct]
  wrong = [e for e in examples if not e.stopped and not e.correct]
  chosen: list[Example] = []
  while len(chosen) < count and (stopped or right or wrong):
    for kind in (stopped, right, stopped, wrong):
      if kind and len(chosen) < count:
        chosen.append(kind.pop(0))
  return chosen


def draw(axes: Axes, example: Example, prompt_width: int) -> dict[str, Any]:
  """Draws regret as bars, z against its threshold as lines, the stop as a marker; what was not trained on is shaded.

  Args:
    axes: where; its titles become the outcome and the prompt.
    example: the rollout.
    prompt_width: the characters of the prompt that fit.

  Returns:
    The entries of its legend, by label.
  """
  count, end = len(example.regret), example.length
  x = np.arange(1, count + 1)
  few = count <= _MAX_LABELS
  legend: dict[str, Any] = {}
  thickness = 1.8 if few else 1.1
  legend['regret $g_t$ (nats)'] = axes.bar(x, example.regret, width=0.7 if few else 1.0, color=REGRET)
  (legend['smoothed regret $z_t$'],) = axes.plot(
    x, example.z, color=Z, linewidth=thickness, marker='o' if few else '', markersize=3.5
  )
  (legend[r'threshold $\beta\,\max(V_t, \epsilon)$'],) = axes.plot(
    x, example.threshold, color=THRESHOLD, linewidth=thickness, linestyle='--'
  )
  if example.stopped and end <= count:
    (legend['stopped'],) = axes.plot(end, example.z[end - 1], 'X', color=STOP, markersize=11, markeredgecolor='white', zorder=5)
  if end < count:
    legend['decoded for measurement only'] = axes.axvspan(end + 0.5, count + 0.5, color='0.5', alpha=0.12, linewidth=0)
  axes.axhline(0, color='0.6', linewidth=0.8, zorder=0)
  axes.set_xlim(0.4, count + 0.6)
  axes.set_title(example.outcome)
  axes.set_title(_shorten(example.prompt, prompt_width), loc='right', parse_math=False, **_PROMPT)
  labels = [token.translate(_VISIBLE) for token in example.tokens[:count]]
  widest = max(map(len, labels), default=0)
  if few and len(labels) == count and widest <= _MAX_LABEL:
    axes.set_xticks(x, labels, parse_math=False, family='DejaVu Sans Mono', fontsize=9, rotation=0 if widest <= 2 else 90)
    axes.tick_params(axis='x', length=0)
  else:
    axes.set_xlabel('token')
  return legend


def _shorten(text: str, width: int) -> str:
  """One line of at most `width` characters; its end is kept, where a prompt has its question."""
  line = ' '.join(text.split())
  return line if len(line) <= width else '…' + line[len(line) - width + 1 :].lstrip()


def _tells_most(example: Example) -> tuple[bool, int]:
  return example.correct is not True, min(len(example.regret), _MAX_LABELS) - max(len(example.regret) - _MAX_LABELS, 0)


def _example(item: Mapping[str, Any]) -> Example | None:
  try:
    regret, z, threshold = (np.array(item[name], dtype=np.float64) for name in ('regret', 'z', 'threshold'))
    length, stop_reason = int(item['length']), str(item['stop_reason'])
  except KeyError:
    return None
  if not len(regret) == len(z) == len(threshold) > 0:
    return None
  return Example(
    prompt=item.get('prompt', ''),
    tokens=tuple(item.get('tokens', ())),
    regret=regret,
    z=z,
    threshold=threshold,
    length=length,
    full_length=int(item.get('full_length', length)),
    stop_reason=stop_reason,
    correct=item.get('correct'),
  )

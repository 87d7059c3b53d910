"""Shows the progress of each stage of a run, as a live bar on a terminal and as occasional lines in a log file."""

import io
import math
import sys
from collections.abc import Mapping
from types import TracebackType
from typing import Any, TextIO

from tqdm import tqdm

_LOG_INTERVAL = 5.0  # seconds between lines where there is no terminal
_BAR = '{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}{postfix}]'
_LINE = '{desc} {percentage:3.0f}% {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}{postfix}]'


def _percent(value: float) -> str:
  return f'{100 * value:.1f}%'


def _count(value: float) -> str:
  return tqdm.format_sizeof(value)


_SHOWN = (
  ('accuracy', 'accuracy', _percent),
  ('tokens_per_second', 'tok/s', _count),
  ('stop/rate', 'stopped', _percent),
  ('stop/beta', 'beta', '{:.2f}'.format),
)


class _Lines(io.TextIOBase):
  """Turns tqdm's carriage returns into lines of a log."""

  def __init__(self, stream: TextIO):
    self._stream = stream

  def write(self, text: str) -> int:
    line = text.strip()
    if line:
      self._stream.write(line + '\n')
      self._stream.flush()
    return len(text)


class Progress:
  """Shows how far a stage is, when it will end, and a few of its metrics, on stderr."""

  def __init__(self, stage: str, total: int, initial: int = 0, unit: str = 'step'):
    """Opens the bar.

    Args:
      stage: the title of the stage.
      total: the last step.
      initial: the steps done before the run was resumed. They do not count in the rate.
      unit: the word for one step.
    """
    terminal = sys.stderr.isatty()
    self._bar = tqdm(
      desc=stage,
      total=total,
      initial=initial,
      unit=unit,
      file=sys.stderr if terminal else _Lines(sys.stderr),
      bar_format=_BAR if terminal else _LINE,
      dynamic_ncols=terminal,
      mininterval=0.1 if terminal else _LOG_INTERVAL,
      miniters=1,
      position=0,
    )

  def update(self, step: int, metrics: Mapping[str, Any] | None = None) -> None:
    """Moves the bar to `step` and shows the metrics that have a label in `_SHOWN`."""
    metrics = metrics or {}
    shown = [(label, float(metrics[name]), form) for name, label, form in _SHOWN if name in metrics]
    postfix = ', '.join(f'{label} {form(value)}' for label, value, form in shown if math.isfinite(value))
    self._bar.set_postfix_str(postfix, refresh=False)
    self._bar.update(step - self._bar.n)

  def close(self) -> None:
    """Closes the bar, which stays visible. Calling it again does nothing."""
    self._bar.close()

  def __enter__(self) -> 'Progress':
    return self

  def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
    self.close()

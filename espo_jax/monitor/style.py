"""Defines what all pictures share: their style, axes of percentages, and text that can be shown."""

from typing import Any, Literal

from matplotlib.axes import Axes

BASELINE = '#5F6B7A'
COLOURS = ('#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00', '#56B4E9')  # Okabe and Ito: safe for colour-blind readers
MONO = 'DejaVu Sans Mono'
STYLE: dict[Any, Any] = {
  'figure.dpi': 160,
  'figure.constrained_layout.h_pad': 0.1,
  'figure.constrained_layout.w_pad': 0.1,
  'font.size': 10,
  'axes.titlesize': 11,
  'axes.titleweight': 'bold',
  'axes.titlelocation': 'left',
  'axes.titlepad': 10,
  'axes.spines.top': False,
  'axes.spines.right': False,
  'axes.edgecolor': '#444444',
  'axes.grid': True,
  'axes.axisbelow': True,
  'grid.color': '#E6E6E6',
  'grid.linewidth': 0.8,
  'lines.linewidth': 1.8,
  'legend.frameon': False,
  'legend.fontsize': 9,
}
_MARKS = str.maketrans({' ': '␣', '\n': '↵', '\t': '⇥'})


def keep_to_shares(axes: Axes, axis: Literal['x', 'y'], whole: float = 1.0) -> None:
  """Limits an axis of shares to [0, `whole`], because the margins of a drawing would extend beyond it.

  Args:
    axes: the axes, after everything is drawn.
    axis: the axis to limit, 'x' or 'y'.
    whole: 1 for shares, 100 for percentages.
  """
  low, high = getattr(axes, f'get_{axis}lim')()
  getattr(axes, f'set_{axis}lim')(max(low, 0.0), min(high, whole))


def visible(token: str, width: int) -> str:
  """Returns a token's text as a label of at most `width` characters.

  Blanks, tabs and line breaks are shown as marks. A character that cannot be shown is a dot.
  """
  text = ''.join(letter if letter.isprintable() else '·' for letter in token.translate(_MARKS)) or '·'
  return text if len(text) <= width else text[: width - 1] + '…'


def shortened(text: str, width: int) -> str:
  """Shortens a text to one line of at most `width` characters.

  A longer text keeps its beginning and its end, because a problem asks its question at the end.
  """
  line = ' '.join(text.split())
  if len(line) <= width:
    return line
  tail = (width - 3) * 2 // 5
  head, end = line[: width - 3 - tail], line[len(line) - tail :]
  if line[len(head)] != ' ':  # words are kept whole if there are any
    head = head.rpartition(' ')[0] or head
  if line[-tail - 1] != ' ':
    end = end.partition(' ')[2] or end
  return f'{head.rstrip()} … {end.lstrip()}'

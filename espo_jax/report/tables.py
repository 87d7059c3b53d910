"""Writes the tables of a page as HTML. Every text is escaped."""

import html
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from espo_jax import monitor
from espo_jax.report.runs import Arm, Run

_ABSENT = '-'
_ABOUT = ('git', 'versions', 'device_kind', 'processor', 'threads')  # what a reader needs of the environment
_HEADS = (
  'run',
  'arm',
  'updates',
  'test accuracy %',
  'greedy %',
  'training accuracy, last 10 updates, %',
  'rollout tokens (k)',
  'tokens per row',
  'stop rate %',
  'right among stopped %',
  'seconds',
)
_NOTE = (
  '<p>Brackets hold 95 % Wilson intervals. The training accuracy is an estimate without stops if shadow rows decode on; '
  'otherwise a stopped row counts as wrong.</p>'
)
_COLOURS = 6  # of phases, in the style sheet


def label(runs: Sequence[Run], run: Run, arm: Arm) -> str:
  """Returns the name of an arm on a page of some runs."""
  if len(runs) == 1:
    return arm.label
  return run.name if len(run.arms) == 1 else f'{run.name}: {arm.label}'


def phases(runs: Sequence[Run]) -> str:
  """Returns the table of the seconds of each phase, with a bar for each arm."""
  arms = [(label(runs, run, arm), arm.results['seconds']) for run in runs for arm in run.arms]
  names = list(dict.fromkeys(name for _, seconds in arms for name in seconds))
  longest = max((sum(seconds.values()) for _, seconds in arms), default=0.0) or 1.0
  lines = []
  for named, seconds in arms:
    widths = [f'{100 * seconds.get(name, 0.0) / longest:.2f}%' for name in names]
    parts = ''.join(
      f'<i class="phase{i % _COLOURS}" style="width:{width}" title="{html.escape(name)}"></i>'
      for i, (name, width) in enumerate(zip(names, widths, strict=True))
    )
    cells = ''.join(f'<td>{seconds[name]:,.1f}</td>' if name in seconds else f'<td>{_ABSENT}</td>' for name in names)
    lines.append(f'<tr><td>{html.escape(named)}</td>{cells}<td class="bars">{parts}</td></tr>\n')
  swatches = ''.join(f'<th><i class="swatch phase{i % _COLOURS}"></i> {html.escape(name)}</th>' for i, name in enumerate(names))
  head = f'<thead><tr><th>arm</th>{swatches}<th></th></tr></thead>'
  return f'<div class="wide"><table>\n{head}\n<tbody>{"".join(lines)}</tbody></table></div>\n'


def results(runs: Sequence[Run]) -> str:
  """Returns the table of all arms."""
  rows = []
  for run in runs:
    if run.warm_start is not None:
      rows.append([run.name, 'warm start', _ABSENT, *_accuracies(run.warm_start), *[_ABSENT] * 6])
    for arm in run.arms:
      its = arm.results
      right = its['false_positives']
      rows.append(
        [
          run.name,
          arm.label,
          f'{its["updates"]} of {run.config.get("learner.updates", "?")}',
          *_accuracies(its),
          _number(_late_accuracy(arm), 100),
          _number(its['rollout_tokens'], 1e-3),
          _number(its['tokens_per_rollout']),
          _number(its['stop_rate'], 100),
          _ABSENT if right is None else f'{_share(right["rate"], right["interval"])} ({right["correct"]} of {right["rows"]})',
          _number(its['wall_seconds']),
        ]
      )
  going = [run.name for run in runs if not run.finished]
  note = f'<p>Still going on or interrupted: {html.escape(", ".join(going))}.</p>' if going else ''
  return _table(_HEADS, rows) + note + _NOTE


def _late_accuracy(arm: Arm) -> float | None:
  """Returns the mean training accuracy of the last ten updates, as the chart shows it."""
  values = [accuracy for row in arm.metrics[-10:] if math.isfinite(accuracy := monitor.policy_accuracy(row))]
  return sum(values) / len(values) if values else None


def _accuracies(results: Mapping[str, Any]) -> list[str]:
  if 'accuracy' not in results:
    return [_ABSENT, _ABSENT]
  return [
    _share(results['accuracy'], results['accuracy_interval']),
    _share(results['greedy_accuracy'], results['greedy_interval']),
  ]


def _share(share: float, interval: Sequence[float]) -> str:
  return f'{100 * share:.1f} [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]'


def _number(value: float | None, scale: float = 1.0) -> str:
  return _ABSENT if value is None else f'{scale * value:,.1f}'


def differences(runs: Sequence[Run]) -> str:
  """Returns the table of the config's fields in which the runs differ; of one run, the table of all fields."""
  fields = sorted({field for run in runs for field in run.config})
  rows = [[field, *(repr(run.config[field]) if field in run.config else _ABSENT for run in runs)] for field in fields]
  if len(runs) > 1:
    rows = [row for row in rows if len(set(row[1:])) > 1]
  if not rows:
    return '<p>The configs do not differ.</p>'
  return _table(('field', *(run.name for run in runs)), rows)


def about(runs: Sequence[Run]) -> str:
  """Returns the table of where each run was made."""
  keys = [key for key in _ABOUT if any(key in run.environment for run in runs)]
  told = [[key, *(_told(run.environment.get(key)) for run in runs)] for key in keys]
  return _table(('', *(run.name for run in runs)), [['folder', *(str(run.folder) for run in runs)], *told])


def history(runs: Sequence[Run]) -> str:
  """Returns the table of the fields with which runs went on; nothing if there are none."""
  rows = [
    [
      run.name,
      change['field'],
      str(change['was']),
      str(change['now']),
      ', '.join(f'{arm} {step}' for arm, step in entry['after'].items()),
    ]
    for run in runs
    for entry in run.history
    for change in entry['changes']
  ]
  if not rows:
    return ''
  return '<h2>What was changed</h2>\n' + _table(('run', 'field', 'was', 'went on with', 'after update'), rows)


def _told(value: Any) -> str:
  if isinstance(value, Mapping):
    return ', '.join(f'{name} {_told(its)}' for name, its in value.items() if its is not None)
  return _ABSENT if value is None else str(value)


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
  def line(cells: Sequence[str], tag: str) -> str:
    return f'<tr>{"".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells)}</tr>\n'

  body = ''.join(line(row, 'td') for row in rows)
  return f'<div class="wide"><table>\n<thead>{line(heads, "th")}</thead>\n<tbody>{body}</tbody></table></div>\n'

"""Summarises the costs and results of an experiment's arms, as a summary for programs and a table for people."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from espo_jax.monitor.files import atomic_write_text, to_json
from espo_jax.monitor.intervals import wilson
from espo_jax.monitor.metrics import column, read_metrics

WARM_START = 'warm_start'
_LAST_UPDATES = 10
_HEADER = (
  'arm',
  'accuracy %',
  'greedy %',
  'tokens (k)',
  'tokens/rollout',
  'saved %',
  'stop rate %',
  'false positives %',
  'seconds',
)
_LABELS = {'never': 'PPO', 'espo': 'ESPO', WARM_START: 'warm start'}

Rows = list[dict[str, Any]]


def arm_label(arm: str) -> str:
  """Returns the name of an arm in tables and plots. The stop rule `never` is plain PPO."""
  return _LABELS.get(arm, arm)


def summarise(
  workdir: str | os.PathLike[str], arms: Sequence[str], evaluations: Mapping[str, Mapping[str, Any]], baseline: str
) -> dict[str, Any]:
  """Combines the metrics of the arms with their test results.

  Args:
    workdir: the folder with `arms/<arm>/metrics.jsonl`.
    arms: the arms, in the order of the table.
    evaluations: the results of each arm and of `warm_start` on the test split: `accuracy`, `correct`, `problems`,
      `greedy_accuracy`, `greedy_correct`, `tokens_mean`.
    baseline: the arm that savings and differences refer to.

  Returns:
    A dictionary with `baseline`, `warm_start` (its test results) and `arms` (test results and costs by arm). Shares and savings
    are fractions of one. Entries that end in `_points` are in percentage points. Intervals are 95 % Wilson intervals. An entry
    that the metrics do not determine is None.
  """
  if baseline not in arms:
    raise ValueError(f'the baseline {baseline!r} is none of the arms {list(arms)}')
  warm = evaluation_results(evaluations[WARM_START])
  summary = {arm: {'label': arm_label(arm), **evaluation_results(evaluations[arm])} for arm in arms}
  for arm, entry in summary.items():
    entry |= costs(read_metrics(Path(workdir) / 'arms' / arm))
    entry['gain_over_warm_start_points'] = 100 * (entry['accuracy'] - warm['accuracy'])
  reference = summary[baseline]
  for entry in summary.values():
    tokens, paid = entry['rollout_tokens'], reference['rollout_tokens']
    entry['saving'] = 1 - tokens / paid if tokens is not None and paid else None
    entry['accuracy_difference_points'] = 100 * (entry['accuracy'] - reference['accuracy'])
  return {'baseline': baseline, WARM_START: warm, 'arms': summary}


def write_summary(workdir: str | os.PathLike[str], summary: Mapping[str, Any]) -> Path:
  """Writes `<workdir>/summary.json`."""
  path = Path(workdir) / 'summary.json'
  atomic_write_text(path, to_json(summary, indent=2) + '\n')
  return path


def results_table(summary: Mapping[str, Any]) -> list[tuple[str, ...]]:
  """Returns the cells of the summary's table: the titles of the columns, the warm start, and a row per arm."""
  warm = (arm_label(WARM_START), *_accuracies(summary[WARM_START]), *['-'] * (len(_HEADER) - 3))
  return [_HEADER, warm, *map(_table_row, summary['arms'].values())]


def format_table(summary: Mapping[str, Any]) -> str:
  """Formats the summary as an aligned Markdown table, with an explanation of its columns below."""
  cells = results_table(summary)
  widths = [max(len(row[i]) for row in cells) for i in range(len(_HEADER))]
  rule = ['-' * widths[0], *('-' * (width - 1) + ':' for width in widths[1:])]
  lines = [f'| {" | ".join(_aligned(row, widths))} |' for row in (cells[0], rule, *cells[1:])]
  return '\n'.join([*lines, '', *_notes(summary)])


def evaluation_results(result: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the entries of a summary that an evaluation on the test split determines."""
  problems = int(result['problems'])
  return {
    'accuracy': float(result['accuracy']),
    'accuracy_interval': wilson(int(result['correct']), problems),
    'correct': int(result['correct']),
    'problems': problems,
    'greedy_accuracy': float(result['greedy_accuracy']),
    'greedy_interval': wilson(int(result['greedy_correct']), problems),
    'greedy_correct': int(result['greedy_correct']),
    'test_tokens_mean': float(result['tokens_mean']),
    'test_depth': float(result.get('depth', 1.0)),
    'test_turns_mean': float(result.get('turns_mean', 1.0)),
    **{name: float(value) for name, value in result.items() if name.startswith('accuracy_')},
  }


def costs(rows: Rows) -> dict[str, Any]:
  """Returns the entries of a summary that the metrics of an arm determine, whether it is finished or not."""
  tokens, rollouts = _sum(rows, 'rollout/tokens'), _sum(rows, 'rollout/rows')
  phases = sorted({name for row in rows for name in row if name.startswith('seconds/')})
  seconds = {name.removeprefix('seconds/'): _sum(rows, name) or 0.0 for name in phases}
  shadow_rows, shadow_correct = _sum(rows, 'stop/shadow_rows'), _sum(rows, 'stop/shadow_correct')
  false_positives = None
  if shadow_rows and shadow_correct is not None:
    counts = round(shadow_correct), round(shadow_rows)
    false_positives = {'rate': counts[0] / counts[1], 'interval': wilson(*counts), 'correct': counts[0], 'rows': counts[1]}
  return {
    'updates': len(rows),
    'rollout_tokens': tokens,
    'shadow_tokens': _sum(rows, 'rollout/shadow_tokens') or 0.0,
    'rollouts': rollouts,
    'tokens_per_rollout': tokens / rollouts if tokens is not None and rollouts else None,
    'stop_rate': _mean(column([row for row in rows if row.get('stop/enabled') == 1], 'stop/rate')),
    'false_positives': false_positives,
    'final_training_accuracy': _mean(column([row for row in rows if 'accuracy' in row][-_LAST_UPDATES:], 'accuracy')),
    'seconds': seconds,
    'wall_seconds': sum(seconds.values()) if seconds else None,
  }


def _sum(rows: Rows, name: str) -> float | None:
  values = column(rows, name)
  return float(np.nansum(values)) if np.isfinite(values).any() else None


def _mean(values: np.ndarray) -> float | None:
  return float(np.nanmean(values)) if np.isfinite(values).any() else None


def _accuracies(entry: Mapping[str, Any]) -> tuple[str, str]:
  return (
    _with_interval(entry['accuracy'], entry['accuracy_interval']),
    _with_interval(entry['greedy_accuracy'], entry['greedy_interval']),
  )


def _with_interval(share: float, interval: tuple[float, float]) -> str:
  return f'{100 * share:.1f} [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]'


def _false_positives(entry: Mapping[str, Any] | None) -> str:
  return '-' if entry is None else f'{_with_interval(entry["rate"], entry["interval"])} ({entry["correct"]}/{entry["rows"]})'


def _number(value: float | None, scale: float = 1.0) -> str:
  return '-' if value is None else f'{scale * value:,.1f}'


def _table_row(entry: Mapping[str, Any]) -> tuple[str, ...]:
  return (
    entry['label'],
    *_accuracies(entry),
    _number(entry['rollout_tokens'], 1e-3),
    _number(entry['tokens_per_rollout']),
    _number(entry['saving'], 100),
    _number(entry['stop_rate'], 100),
    _false_positives(entry['false_positives']),
    _number(entry['wall_seconds']),
  )


def _aligned(row: Sequence[str], widths: Sequence[int]) -> list[str]:
  return [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]


def _notes(summary: Mapping[str, Any]) -> list[str]:
  entries = summary['arms'].values()
  notes = [
    f'Test split, {summary[WARM_START]["problems"]} problems; [95 % Wilson interval]. '
    f'Saved: training tokens against {arm_label(summary["baseline"])}.'
  ]
  if any(entry['false_positives'] for entry in entries):
    shadow = sum(entry['shadow_tokens'] for entry in entries)
    notes.append(
      'False positives: stopped rollouts that would have been right, from shadow rows decoded to the end '
      f'({shadow / 1000:,.1f} k tokens, not counted).'
    )
  if len({entry['updates'] for entry in entries}) > 1:
    updates = ', '.join(f'{entry["label"]} {entry["updates"]}' for entry in entries)
    notes.append(f'The arms ran different numbers of updates, so the totals do not compare: {updates}.')
  return notes

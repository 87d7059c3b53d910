"""Summarises the answers of an evaluation: accuracies with intervals, lengths, and the shares cut off or not graded."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Float

from espo_jax.monitor.estimators import bootstrap_intervals, majority, pass_at_k
from espo_jax.monitor.intervals import wilson

_Name = TypeVar('_Name')
QUANTILES = (5, 25, 50, 75, 95)  # per cent
_LENGTHS = ('mean', *(f'p{q}' for q in QUANTILES))


def summarise_samples(answers: Iterable[Mapping[str, Any]], samples: int) -> dict[str, Any]:
  """Summarises `samples` answers to each problem.

  Args:
    answers: the records with `correct`, `answer`, `status`, `length` and `stop_reason`, and with `probed` where answers took
      probes. Answers to one problem are adjacent.
    samples: the number of answers to each problem.

  Returns:
    A dictionary with these entries:

    | entry | content |
    |---|---|
    | `problems`, `samples` | the number of problems, and of answers to each |
    | `scores` | the value and the 95 % interval of `avg@n`, of `pass@k` for k in powers of two, and of `maj@n` |
    | `lengths` | the number of `right` and of `wrong` answers, and the mean and quantiles of their tokens, probes included |
    | `truncated` | the share of answers that the horizon cut off |
    | `no_answer` | the share of responses that state no answer |
    | `timeouts`, `errors` | the shares of answers whose grading timed out or failed |

    Intervals are those of `with_intervals`.
  """
  columns: dict[str, list[Any]] = {name: [] for name in ('correct', 'answer', 'status', 'length', 'stop_reason')}
  probed: list[int] = []
  for row in answers:
    probed.append(row.get('probed', 0))
    for name, values in columns.items():
      values.append(row[name])
  stated, status = columns['answer'], np.array(columns['status'])
  right, lengths = np.array(columns['correct'], bool), np.array(columns['length']) + np.array(probed, int)
  problems = len(right) // samples
  counts = right.reshape(problems, samples).sum(axis=1)
  scores = {f'avg@{samples}': counts / samples}
  scores |= {f'pass@{k}': pass_at_k(counts, samples, k) for k in (2**i for i in range(samples.bit_length()))}
  groups = [slice(i, i + samples) for i in range(0, len(right), samples)]
  scores[f'maj@{samples}'] = np.array([majority(stated[group], right[group].tolist()) for group in groups])
  return {
    'problems': problems,
    'samples': samples,
    'scores': with_intervals(scores),
    'lengths': {name: _describe(lengths[chosen]) for name, chosen in (('right', right), ('wrong', ~right))},
    'truncated': float(np.mean(np.array(columns['stop_reason']) == 'length')),
    'no_answer': float(np.mean([not answer for answer in stated])),
    'timeouts': float(np.mean(status == 'timeout')),
    'errors': float(np.mean(status == 'error')),
  }


def with_intervals(scores: Mapping[_Name, Float[np.ndarray, ' problems']]) -> dict[_Name, dict[str, Any]]:
  """Returns the mean over problems of each score with its 95 % interval, as `value` and `interval`.

  Intervals are bootstrap intervals over problems. If all problems have the score 0 or all have 1, Wilson's interval is used,
  because there is no spread to resample.

  Args:
    scores: the scores of the problems in [0, 1], by name. All scores share the draws.
  """
  columns = np.stack(list(scores.values()), axis=1).astype(np.float64)
  return {
    name: {'value': float(values.mean()), 'interval': _interval(values, interval)}
    for name, values, interval in zip(scores, columns.T, bootstrap_intervals(columns), strict=True)
  }


def format_scores(summary: Mapping[str, Any]) -> str:
  """Formats the summary as two small tables and a line of shares."""
  rows = [(name, *percent_cells(score)) for name, score in summary['scores'].items()]
  lines = [format_columns([('', '%', '95 % interval'), *rows])]
  described = [
    (name, d['count'], *('-' if d[x] is None else f'{d[x]:.0f}' for x in _LENGTHS)) for name, d in summary['lengths'].items()
  ]
  lines += ['', format_columns([('answers', 'number', 'mean tokens', *_LENGTHS[1:]), *described]), '']
  shares = {
    'truncated': 'cut by the horizon',
    'no_answer': 'stating no answer',
    'timeouts': 'not graded in time',
    'errors': 'not graded for an error',
  }
  lines.append(', '.join(f'{100 * summary[name]:.1f} % {text}' for name, text in shares.items()))
  return '\n'.join(lines)


def percent_cells(score: Mapping[str, Any]) -> tuple[str, str]:
  """Formats a share and its interval, both in per cent, as two cells of a table."""
  return f'{100 * score["value"]:.1f}', '[{:.1f}, {:.1f}]'.format(*(100 * end for end in score['interval']))


def _interval(values: np.ndarray, resampled: np.ndarray) -> list[float]:
  extreme = values.min() == values.max() and values[0] in (0.0, 1.0)
  return list(wilson(int(values.sum()), len(values))) if extreme else resampled.tolist()


def _describe(lengths: np.ndarray) -> dict[str, Any]:
  if not lengths.size:
    return {'count': 0, **dict.fromkeys(_LENGTHS)}
  quantiles = np.percentile(lengths, QUANTILES).tolist()
  return {'count': lengths.size, **dict(zip(_LENGTHS, [float(lengths.mean()), *quantiles], strict=True))}


def format_columns(rows: Sequence[tuple[Any, ...]]) -> str:
  """Formats rows with their first column aligned to the left and the others to the right."""
  widths = [max(len(str(row[i])) for row in rows) for i in range(len(rows[0]))]
  return '\n'.join(
    '  '.join([str(row[0]).ljust(widths[0]), *(str(x).rjust(w) for x, w in zip(row[1:], widths[1:], strict=True))])
    for row in rows
  )

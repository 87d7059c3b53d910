"""Measures what ending answers that are settled saves, and what it does to their grades."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np


def summarise_settled(answers: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
  """Measures answers that a rule ended as settled against the same answers decoded to their own end.

  Args:
    answers: The records of `samples.jsonl`.

  Returns:
    `settled`, the share of the answers that was ended; `saved`, the share of all tokens that is saved, net of those of probes;
    `probed`, the tokens of probes as a share of all tokens; `accuracy`, and `accuracy_full` if nothing is ended; `lost` and
    `gained`, the numbers of answers that are right only without the rule and only with it.
  """
  names = ('length', 'probed', 'full_length', 'correct', 'full_correct')
  rows = [[row[name] for name in (*names, 'stop_reason')] for row in answers]
  length, probed, full_length, correct, full_correct = (np.array(x) for x in list(zip(*rows, strict=True))[:-1])
  total = int(full_length.sum())
  return {
    'settled': float(np.mean([row[-1] == 'settled' for row in rows])),
    'saved': 1 - int((length + probed).sum()) / total,
    'probed': int(probed.sum()) / total,
    'accuracy': float(correct.mean()),
    'accuracy_full': float(full_correct.mean()),
    'lost': int((full_correct & ~correct).sum()),
    'gained': int((correct & ~full_correct).sum()),
  }


def format_settled(summary: Mapping[str, Any]) -> str:
  """Formats the measures, a line for each kind."""
  s = summary['stop']
  saved, probed, before, after = (f'{100 * s[name]:.1f} %' for name in ('saved', 'probed', 'accuracy_full', 'accuracy'))
  return (
    f'{summary["settings"]["stop"]} settled {100 * s["settled"]:.1f} % of the answers and saved {saved} of the tokens, '
    f'after {probed} for probes.\n'
    f'Accuracy: {before} with all tokens, {after} as settled; {s["lost"]} right answers were lost and {s["gained"]} gained.'
  )

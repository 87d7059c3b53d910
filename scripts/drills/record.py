"""Keeps what the drills found: one entry per drill in a JSON file, and a table of all of them in a page."""

import json
import os
import pathlib
import shlex
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from espo_jax import monitor

OPEN, CLOSE = '<!-- Written by scripts/drill.py. -->', '<!-- End of what scripts/drill.py wrote. -->'


class Case(NamedTuple):
  """One case of a drill.

  Attributes:
    name: what was done, such as 'SIGKILL after 7.31 s, in the update'.
    passed: whether all was well afterwards.
    note: what happened instead, or a figure that belongs to the case.
  """

  name: str
  passed: bool
  note: str = ''


def entry(name: str, aim: str, argv: Sequence[str], cases: Sequence[Case], figures: Mapping[str, Any], seconds: float) -> dict:
  """Returns the JSON entry of a drill: its figures, its failures, the command, the commit and the machine."""
  known = monitor.describe()
  return {
    'drill': name,
    'aim': aim,
    'command': 'PYTHONPATH=. ' + shlex.join(['python', 'scripts/drill.py', *argv]),
    'git': known['git'],
    'versions': known['versions'],
    'hardware': f'{os.cpu_count()} cores of {known["processor"]}',
    'seconds': round(seconds, 1),
    'cases': len(cases),
    'passed': sum(case.passed for case in cases),
    'figures': dict(figures),
    'failed': [case._asdict() for case in cases if not case.passed],
  }


def row(found: Mapping[str, Any]) -> str:
  """Returns the table's row of a drill."""
  git = found['git'] or {}
  commit = git.get('commit', 'unknown')[:7] + (' with changes' if git.get('dirty') else '')
  figures = '; '.join(f'{name} {value}' for name, value in found['figures'].items())
  return (
    f'| {found["drill"]} | {found["aim"]} | {found["passed"]} of {found["cases"]} | {figures} | `{found["command"]}` '
    f'| {commit} | {found["hardware"]} | {found["seconds"] / 60:.1f} |'
  )


def write(page: pathlib.Path, found: Mapping[str, Any]) -> None:
  """Puts the entry in place of the drill's last one in PAGE.json, and writes the table of PAGE.md anew.

  The text of the page around the table is kept.
  """
  numbers = monitor.ending(page, '.json')
  entries = {one['drill']: one for one in (json.loads(numbers.read_text()) if numbers.exists() else [])}
  entries = dict(sorted((entries | {found['drill']: dict(found)}).items()))
  monitor.atomic_write_text(numbers, monitor.to_json(list(entries.values()), indent=1) + '\n')
  head = '| drill | aim | held | figures | command | commit | machine | minutes |\n|---|---|---|---|---|---|---|---|'
  part = '\n'.join([OPEN, '', head, *map(row, entries.values()), '', CLOSE])
  text = monitor.ending(page, '.md')
  before, _, rest = text.read_text().partition(OPEN) if text.exists() else ('# Reliability\n\n', '', '\n')
  monitor.atomic_write_text(text, before + part + (rest.partition(CLOSE)[2] or '\n'))

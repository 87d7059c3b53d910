"""Joins what was read to one HTML file that needs nothing else: no network, and no other file."""

import base64
import hashlib
import html
import importlib.resources
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from espo_jax import monitor
from espo_jax.report.curves import CHARTS, OVER, curves
from espo_jax.report.rollouts import packed, read_rollouts
from espo_jax.report.runs import ReportError, Run
from espo_jax.report.tables import about, differences, history, label, phases, results

MOST_ROLLOUTS = 2000


def write_page(runs: Sequence[Run], path: Path, *, most: int = MOST_ROLLOUTS, every: int | None = None) -> Path:
  """Writes the page of some runs.

  Args:
    runs: The runs.
    path: The file to write.
    most: The most rollouts that the page has of all runs together.
    every: The seconds after which an open page loads itself again; None for never.

  Returns:
    The path.

  Raises:
    ReportError: The rollouts of a run are damaged, or the file cannot be written.
  """
  arms = [
    {'run': i, 'name': arm.name, 'label': label(runs, run, arm), **curves(arm.metrics)}
    for i, run in enumerate(runs)
    for arm in run.arms
  ]
  metrics = sorted({name for arm in arms for name in arm['metrics']})
  shown = {
    'every': every,
    'over': OVER,
    'charts': [chart._asdict() for chart in CHARTS],
    'arms': arms,
    'meanings': {name: meaning for name in metrics if (meaning := monitor.meaning(name)) is not None},
    'rollouts': packed([read_rollouts(run, most // len(runs)) for run in runs]),
  }
  own, plotly = _asset('page.js') + _asset('curves.js') + _asset('rollouts.js') + _asset('start.js'), _plotly_script()
  title = ', '.join(run.name for run in runs)
  parts = {
    'TITLE': html.escape(title),
    'POLICY': html.escape(_policy((own, plotly))),
    'STYLE': _asset('page.css'),
    'RESULTS': results(runs),
    'PHASES': phases(runs),
    'DIFFERENCES': differences(runs),
    'ABOUT': about(runs),
    'HISTORY': history(runs),
    'DATA': re.sub('[<\ud800-\udfff]', lambda found: f'\\u{ord(found[0]):04x}', monitor.to_json(shown)),
    'PLOTLY': plotly,
    'SCRIPT': own,
  }
  page = ''.join(parts[part[1:-1]] if part[:1] == '@' else part for part in re.split('(@[A-Z]+@)', _asset('page.html')))
  try:
    monitor.atomic_write_text(path, page.encode(errors='replace').decode())  # a path may hold bytes that are no text
  except OSError as error:
    raise ReportError(f'{path}: cannot be written ({error.strerror}); fix: --output=FILE') from error
  return path


def _plotly_script() -> str:
  """Returns the script of the plotting library, which is a part of its package."""
  return (importlib.resources.files('plotly') / 'package_data' / 'plotly.min.js').read_text(encoding='utf-8')


def _asset(name: str) -> str:
  return (importlib.resources.files('espo_jax.report') / 'assets' / name).read_text(encoding='utf-8')


def _policy(scripts: Iterable[str]) -> str:
  """Returns the content-security policy: these scripts may run, and nothing may be loaded or sent.

  The plotting library writes style rules, so inline styles are allowed. Its camera button makes a picture of the page's data.
  """
  hashes = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
  allowed = ' '.join(f"'sha256-{digest}'" for digest in hashes)
  rules = (
    "default-src 'none'",
    f'script-src {allowed}',
    "style-src 'unsafe-inline'",
    'img-src data: blob:',
    "base-uri 'none'",
    "form-action 'none'",
  )
  return '; '.join(rules)

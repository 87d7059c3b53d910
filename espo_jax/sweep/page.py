"""Writes a comparison to files: a page for people and JSON for programs."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from espo_jax.configs import ConfigError
from espo_jax.monitor import atomic_write_text
from espo_jax.sweep.plan import Run
from espo_jax.sweep.results import format_search, p_values, told_apart
from espo_jax.sweep.running import Status
from espo_jax.sweep.spec import Sweep

OPEN = '<!-- Written by espo_jax.sweep, up to the line that closes this part; what stands around it is kept. -->'
CLOSE = '<!-- End of what espo_jax.sweep wrote. -->'


def _all(environments: Sequence[Mapping[str, Any]], name: str) -> str:
  """Joins the runs' different values of an entry. A run from before the entry was recorded has 'unknown'."""
  return ' or '.join(dict.fromkeys(str(environment.get(name, 'unknown')) for environment in environments))


def check_page(path: pathlib.Path) -> None:
  """Refuses to write to a page that has no part written by this command.

  Raises:
    ConfigError: The page exists and has no such part.
  """
  if path.exists() and not (OPEN in (text := path.read_text()) and CLOSE in text):
    raise ConfigError([f'--output={path.with_suffix("")}: {path} was not written by espo_jax.sweep; fix: another name'])


def write_page(path: pathlib.Path, title: str, body: str) -> None:
  """Writes a new page, or replaces the part of an existing page that this command wrote."""
  part = f'{OPEN}\n\n{body}\n\n{CLOSE}'
  if path.exists():
    before, _, rest = path.read_text().partition(OPEN)
    text = before + part + rest.partition(CLOSE)[2]
  else:
    text = f'# {title}\n\n{part}\n'
  atomic_write_text(path, text)


def body(sweep: Sweep, record: Mapping[str, Any], table: str, picture: str) -> str:
  """Returns the text of the page: what was run, on which machine, the results, and which arms are told apart.

  Args:
    sweep: The comparison.
    record: The content of the JSON file. With a search it has an entry 'search', the record of `Growing`.
    table: The table of results.
    picture: The name of the picture's file.
  """
  hardware = record['hardware']
  commits = ', '.join(commit[:7] for commit in record['commits']) or 'unknown'
  changed = ', the working tree changed since' if record['dirty'] else ''
  numbers = picture.removesuffix('.png') + '.json'
  lines = [
    f'    {record["command"]}',
    '',
    f'Commit {commits}{changed}; jax {hardware["jax"]}, Python {hardware["python"]}; {hardware["device"]}, '
    f'{hardware["platform"]}, {hardware["processor"]} with {hardware["threads"]} threads, {hardware["cpu_count"]} '
    f'cores, of which a run had {hardware["cores"]}. '
    f'Seeds {" ".join(map(str, sweep.seeds))}. The runs took {record["seconds"] / 60:.1f} minutes in all, one after another, '
    'including compilation and evaluation.',
    '',
    f"The table has the mean ± half width of the 95 % interval over seeds (Student's t, n = {len(sweep.seeds)}). Differences "
    f'and savings are paired by seed. All numbers and the command of each run are in [{numbers}]({numbers}).',
    '',
    table,
    *(['', told_apart(sweep, record['columns'])] if sweep.primary else []),
    *(['', format_search(record['search'])] if 'search' in record else []),
    '',
    f'![Learning curves, and {sweep.scatter[1]} over {sweep.scatter[0]}]({picture})',
  ]
  return '\n'.join(lines)


def record_of(
  sweep: Sweep,
  title: str,
  command: str,
  runs: Sequence[Run],
  environments: Sequence[Mapping[str, Any]],
  compared: Mapping[str, Any],
) -> dict[str, Any]:
  """Returns the content of the JSON file but for a search: what was run and everything that was measured."""
  statuses = [Status.of(run) for run in runs]
  gits = [environment.get('git') or {} for environment in environments]
  last = environments[-1]
  return {
    'title': title,
    'command': command,
    'commits': list(dict.fromkeys(git['commit'] for git in gits if git)),
    'dirty': any(git.get('dirty') for git in gits),
    'hardware': {
      'jax': last['versions']['jax'],
      'python': last['versions']['python'],
      'device': last['device_kind'],
      'platform': last['platform'],
      'cpu_count': last['cpu_count'],
      'processor': _all(environments, 'processor'),
      'threads': _all(environments, 'threads'),
      'cores': ' or '.join(str(cores) for cores in sorted({status.cores for status in statuses})),
    },
    'seconds': sum(status.seconds for status in statuses),
    'seeds': list(sweep.seeds),
    'baseline': sweep.baseline,
    'arms': {arm: {**sweep.common, **overrides} for arm, overrides in sweep.arms.items()},
    'runs': [
      {'seed': run.seed, 'name': run.name, 'arms': run.arms, 'command': run.command, **status._asdict()}
      for run, status in zip(runs, statuses, strict=True)
    ],
    'columns': compared,
    **({'p_values': p_values(sweep, compared)} if sweep.primary else {}),
  }

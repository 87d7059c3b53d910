"""A run that goes on with another value of some fields, which must be named. The run's folder remembers each change.

A finished run goes on if it may now take more updates or tokens. Its results so far are kept beside the new ones.
"""

import json
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import ml_collections

from espo_jax import monitor
from espo_jax.configs import ConfigError, flatten, load_config, with_day, with_dtype
from espo_jax.configs.fields import near_field

HISTORY = 'changes.json'
_MORE = ('learner.updates', 'learner.tokens')
_SECTIONS = ('checkpoint', 'critic', 'eval', 'learner', 'objective', 'reward', 'rollout', 'stop')
_FIXED = (  # they decide which problems are seen, or which arrays the state has
  'critic.kind',
  'objective.name',
  'reward.name',
  'rollout.max_draws',
  'rollout.prompts',
  'stop.name',
  'stop.returns',
)


class Change(NamedTuple):
  """A field with another value.

  Attributes:
    field: The field.
    was: The value that the run had.
    now: The value that it goes on with.
  """

  field: str
  was: Any
  now: Any


def changes_of(config: ml_collections.ConfigDict, path: pathlib.Path, named: Sequence[str] = ()) -> list[Change]:
  """Returns the fields in which a config differs from that of a run.

  Args:
    config: The config.
    path: The `config.json` of the run; it need not be there.
    named: The fields that may differ.

  Raises:
    ConfigError: A field differs without being named, or a named field is unknown or cannot change in a run.
  """
  if not path.exists():
    return []
  before = flatten(load_config(path))
  now = flatten(with_dtype(with_day(config, path.parent), workdir=path.parent))
  fields = sorted(field for field in before.keys() | now.keys() if before.get(field) != now.get(field))
  if problems := list(_problems(fields, before, now, path, named)):
    raise ConfigError(problems)
  return [Change(field, before.get(field), now.get(field)) for field in fields]


def _problems(
  fields: Sequence[str], before: dict[str, Any], now: dict[str, Any], path: pathlib.Path, named: Sequence[str]
) -> Iterator[str]:
  known = before.keys() | now.keys()
  for field in named:
    if field not in known:
      yield f'--changed={field}: no such field; {near_field(field, known)}'
    elif field in _FIXED or field.partition('.')[0] not in _SECTIONS:
      yield f'--changed={field}: cannot change in a run; fix: another --workdir'
  for field in fields:
    if field not in named:
      fix = f'that value, --changed={field} if the run is to go on with the new one, or another --workdir'
      yield f'{field} = {now.get(field)!r} was {before.get(field)!r} in {path}; fix: {fix}'


def remember(workdir: pathlib.Path, changes: Sequence[Change]) -> None:
  """Writes changes to the run's history, and puts the results aside that more updates or tokens will replace.

  Raises:
    ConfigError: All arms are finished, and none may take more updates or tokens.
  """
  if not changes:
    return
  done = {path.parent: _last_step(path.parent) for path in sorted(workdir.glob('arms/*/evaluation.json'))}
  more = any(change.field in _MORE for change in changes)
  if (workdir / 'summary.json').is_file() and not more:
    fields = ', '.join(change.field for change in changes)
    raise ConfigError(
      [f'--changed={fields}: the run in {workdir} is finished; fix: --changed=learner.updates, and more of them']
    )
  entry = {
    'changes': [change._asdict() for change in changes],
    'after': {str(path.parent.name): _last_step(path.parent) for path in sorted(workdir.glob('arms/*/metrics.jsonl'))},
    'finished': [folder.name for folder in done],
  }
  history = read_history(workdir)
  said = [{name: one[name] for name in ('changes', 'after')} for one in (*history[-1:], json.loads(monitor.to_json(entry)))]
  if len(said) == 1 or said[0] != said[1]:  # a kill may have come before the config was written
    monitor.atomic_write_text(workdir / HISTORY, monitor.to_json([*history, entry], indent=2) + '\n')
  if more:
    for folder, step in done.items():
      for name in ('evaluation', 'examples'):
        if (folder / f'{name}.json').is_file():
          (folder / f'{name}.json').rename(folder / f'{name}.{step:06d}.json')
    (workdir / 'summary.json').unlink(missing_ok=True)


def read_history(workdir: pathlib.Path) -> list[dict[str, Any]]:
  """Returns the changes of a run, the oldest first; none if it was never changed.

  An entry has `changes`; `after`, the last update of each arm that had begun; and `finished`, the arms that were finished.
  """
  path = workdir / HISTORY
  return json.loads(path.read_text()) if path.is_file() else []


def reopened_at(workdir: pathlib.Path, arm: str) -> int | None:
  """Returns the update at which a finished arm was last allowed more updates or tokens; None if it never was."""
  for entry in reversed(read_history(workdir)):
    if arm in entry['finished'] and any(change['field'] in _MORE for change in entry['changes']):
      return entry['after'][arm]
  return None


def _last_step(folder: pathlib.Path) -> int:
  rows = monitor.read_metrics(folder)
  return int(rows[-1]['step']) if rows else 0

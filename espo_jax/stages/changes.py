"""A run that goes on with another value of some fields, which must be named. The run's folder remembers each change.

A finished run goes on if it may now take more updates or tokens. Its results so far are kept beside the new ones.
"""

import json
import pathlib
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import ml_collections

from espo_jax import monitor
from espo_jax.configs import ConfigError, flatten, load_config, with_day, with_dtype
from espo_jax.configs.fields import near_field
from espo_jax.parallel.storage import read_json

HISTORY = 'changes.json'
_MORE = ('learner.updates', 'learner.tokens')
# Other fields decide which problems are seen, what an evaluation is, or which numbers the state has.
_MAY_CHANGE = re.compile(
  r'learner\.(?!importance\b|offload_optimizer\b)\w+|critic\.learning_rate|rollout\.(samples|slots|scan_length|parts|record)'
  r'|stop\.(?!name\b|returns\b|(\w+\.)?beta_0\b).+|objective\.(?!name\b).+|reward\.(?!name\b).+|eval\.(every|batch)|checkpoint\.\w+'
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


def changes_of(
  config: ml_collections.ConfigDict, workdir: pathlib.Path, named: Sequence[str] | None = None
) -> tuple[Change, ...]:
  """Returns the fields in which a config differs from that of the run in a folder; none if there is no run.

  Args:
    config: The config.
    workdir: The folder.
    named: The fields that may differ; None where none can be named.

  Raises:
    ConfigError: A field differs without being named. A named field is unknown, cannot change in a run, or has fewer updates or
      tokens than before. Or the run is finished, and may take no more of either.
  """
  path = workdir / 'config.json'
  now = flatten(with_dtype(with_day(config, workdir), workdir=workdir))
  before = flatten(load_config(path)) if path.exists() else now
  fields = sorted(field for field in before.keys() | now.keys() if before.get(field) != now.get(field))
  found = tuple(Change(field, before.get(field), now.get(field)) for field in fields)
  if problems := [*_misnamed(named or (), before.keys() | now.keys()), *_problems(found, path, named), *_of_drafts(found, now)]:
    raise ConfigError(problems)
  if found and (workdir / 'summary.json').is_file() and not any(change.field in _MORE for change in found):
    raise ConfigError(
      [f'--changed={found[0].field}: the run in {workdir} is finished; fix: --changed=learner.updates, and more of them']
    )
  return found


def stage_origin(config: ml_collections.ConfigDict, stage: str) -> dict[str, Any]:
  """Returns what tells the checkpoints of a stage from others: its name, and the fields that cannot change in a run.

  Args:
    config: The config of the run.
    stage: The name of the folder of the stage or the arm.
  """
  fields = {field: value for field, value in flatten(config).items() if not _MAY_CHANGE.fullmatch(field)}
  return {'stage': stage} | json.loads(monitor.to_json(fields))


def _misnamed(named: Sequence[str], known: Collection[str]) -> Iterator[str]:
  for field in named:
    if field not in known:
      yield f'--changed={field}: no such field; {near_field(field, known)}'
    elif not _MAY_CHANGE.fullmatch(field):
      yield f'--changed={field}: cannot change in a run; fix: another --workdir'


def _problems(found: Sequence[Change], path: pathlib.Path, named: Sequence[str] | None) -> Iterator[str]:
  for field, was, now in found:
    if field not in (named or ()):
      may = named is not None and _MAY_CHANGE.fullmatch(field)
      going_on = f'--changed={field} if the run is to go on with the new one, ' if may else ''
      yield f'{field} = {now!r} was {was!r} in {path}; fix: that value, {going_on}or another --workdir'
    elif field in _MORE and 0 < (now or float('inf')) < (was or float('inf')):  # 0 tokens are no limit
      yield f'{field} = {now!r} was {was!r} in {path}: fewer than before; fix: more of them, or another --workdir'


def _of_drafts(found: Sequence[Change], now: Mapping[str, Any]) -> Iterator[str]:
  for change in found:
    if change.field == 'rollout.samples' and now['rollout.reuse.form'] != 'none':
      yield (
        f'rollout.samples = {change.now!r} was {change.was!r}: the run keeps a last response of each sample '
        f'(rollout.reuse.form = {now["rollout.reuse.form"]!r}); fix: that value, or another --workdir'
      )


def remember(config: ml_collections.ConfigDict, workdir: pathlib.Path, changes: Sequence[Change]) -> None:
  """Writes changes to the run's history, and puts the results aside of arms that may now go on.

  Args:
    config: The config that the run goes on with.
    workdir: The folder of the run.
    changes: The changes.
  """
  if not changes:
    return
  before = flatten(load_config(workdir / 'config.json'))
  saved = {path.parent.name: _saved(path.parent) for path in sorted(workdir.glob('arms/*/metrics.jsonl'))}
  limits = before['learner.updates'], before.get('learner.tokens', 0)
  more = config.learner.updates, config.learner.tokens
  reopened = [
    arm for arm, (step, decoded) in saved.items() if _over(step, decoded, *limits) and not _over(step, decoded, *more)
  ]
  entry = {
    'changes': [change._asdict() for change in changes],
    'after': {arm: step for arm, (step, _) in saved.items()},
    'reopened': reopened,
  }
  history = read_history(workdir)
  if history[-1:] != [json.loads(monitor.to_json(entry))]:  # it is, if a kill came before the new config was written
    monitor.atomic_write_text(workdir / HISTORY, monitor.to_json([*history, entry], indent=2) + '\n')
  for arm in reopened:
    for name in ('evaluation', 'examples'):
      if (path := workdir / 'arms' / arm / f'{name}.json').is_file():
        path.rename(path.with_name(f'{name}.{saved[arm][0]:06d}.json'))
  (workdir / 'summary.json').unlink(missing_ok=True)


def read_history(workdir: pathlib.Path) -> list[dict[str, Any]]:
  """Returns the changes of a run, the oldest first; none if it was never changed.

  An entry has `changes`; `after`, the last saved update of each arm; and `reopened`, the finished arms that may go on.
  """
  path = workdir / HISTORY
  return read_json(path, list) if path.is_file() else []


def reopened_at(workdir: pathlib.Path, arm: str) -> int | None:
  """Returns the update at which an arm was finished before it was last allowed to go on; None if it never was."""
  return next((entry['after'][arm] for entry in reversed(read_history(workdir)) if arm in entry['reopened']), None)


def _saved(folder: pathlib.Path) -> tuple[int, float]:
  """Returns the step of an arm's newest checkpoint, and the tokens that were decoded by then."""
  step = max((int(path.name) for path in (folder / 'checkpoints').glob('*') if path.name.isdecimal()), default=0)
  rows = [row for row in monitor.read_metrics(folder) if row['step'] == step]
  return step, rows[-1].get('rollout/decoded', 0.0) if rows else 0.0


def _over(step: int, decoded: float, updates: int, tokens: int) -> bool:
  """Returns whether an arm has all the updates or tokens that it may take."""
  return step >= updates or 0 < tokens <= decoded

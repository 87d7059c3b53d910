"""Reads recorded rollouts."""

import pathlib
from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Bool, Float, Int

from espo_jax.parallel.storage import DamagedFile, read_arrays
from espo_jax.types import StopReason

_ON_DEMAND = ('entropy', 'margin', 'confidence', 'projections')  # in recordings with features of states
_OF_TOKENS = ('regret', 'logprobs', 'values')
_NUMBERS = ('mu', 'var', 'shadow_share', 'samples')
_OF_TURNS = ('turn', 'ends')  # in recordings of episodes
_ROW_ARRAYS = ('full_length', 'ended', 'correct', 'stopped', 'shadow')


class RecordingsError(ValueError):
  """A folder whose recordings cannot be used. The message names the folder and the fix."""


class Recordings(NamedTuple):
  """The recordings of `F` rollouts with `N` rows each. A row of episodes has the policy's tokens alone, all turns in one.

  If a stop rule ended rows, only those of them count that were decoded on as shadow rows. They stand for all stopped rows.
  """

  regret: Float[Array | np.ndarray, 'F N T']
  logprobs: Float[Array | np.ndarray, 'F N T']
  values: Float[Array | np.ndarray, 'F N T']  # the critic's values as the rule saw them
  full_length: Int[Array | np.ndarray, 'F N']
  ends: Bool[Array | np.ndarray, 'F N T']  # True on end tokens
  correct: Float[Array | np.ndarray, 'F N']  # 0 or 1
  weight: Float[Array | np.ndarray, 'F N']  # the number of rows that a row stands for; 0 if its end is not known
  problem: Int[Array | np.ndarray, 'F N']  # the index of the row's problem in its rollout
  mu: Float[Array | np.ndarray, 'F']
  var: Float[Array | np.ndarray, 'F']
  entropy: Float[Array | np.ndarray, 'F N T'] | None = None  # these only if features of states were recorded
  margin: Float[Array | np.ndarray, 'F N T'] | None = None
  confidence: Float[Array | np.ndarray, 'F N T'] | None = None
  projections: Float[Array | np.ndarray, 'F N T K'] | None = None


def read_recordings(folder: pathlib.Path) -> tuple[Recordings, list[pathlib.Path]]:
  """Reads every recording below a folder, and returns the recordings and their files in order.

  Raises:
    RecordingsError: There is no recording, a file cannot be used, the files differ in the number of rows, or all rows are right
      or all are wrong.
  """
  named = f'--rollouts={folder}'
  if not folder.is_dir():
    raise RecordingsError(
      f'{named}: no such folder; fix: the folder of a run of espo_jax.train, or of an evaluation with --record'
    )
  files = _own(folder, sorted(folder.rglob('rollouts/*.npz'))) or sorted(folder.glob('*.npz'))
  if not files:
    raise RecordingsError(
      f'{named}: no rollouts were recorded there; fix: train with --config.rollout.record=10, say, which writes '
      'arms/RULE/rollouts/STEP.npz, or evaluate with --record'
    )
  found = [_read(file) for file in files]
  for one, file in zip(found, files, strict=True):
    if len(one['correct']) != len(found[0]['correct']):
      raise RecordingsError(
        f'{named}: {files[0]} has {len(found[0]["correct"])} rows and {file} has {len(one["correct"])}; fix: a folder whose '
        'recordings have as many rows, such as RUN/arms/RULE'
      )
  width = max(one['regret'].shape[1] for one in found)
  wide = {
    name: np.stack([widened(one[name], width) for one in found])
    for name in (*_OF_TOKENS, 'ends', *(name for name in _ON_DEMAND if _in_all(found, name)))
  }
  narrow = {name: np.stack([one[name] for one in found]) for name in ('full_length', 'correct', 'mu', 'var')}
  recordings = Recordings(
    **wide,
    **narrow,
    weight=np.stack([_weight(one, file) for one, file in zip(found, files, strict=True)]),
    problem=np.stack([np.arange(len(one['correct'])) // one['samples'] for one in found]),
  )
  if not recordings.weight.any():
    raise RecordingsError(
      f'{named}: all rows were stopped and none went on; fix: record with a larger --config.stop.shadow_share, or in the arm '
      "'never'"
    )
  share = np.average(recordings.correct, weights=recordings.weight)
  if share in (0, 1):
    raise RecordingsError(
      f'{named}: {"no" if share == 0 else "every"} row is right, so that there is nothing to tell apart; fix: rollouts of a '
      'policy that is right now and then'
    )
  return recordings, files


def check_halves(recordings: Recordings, named: str) -> None:
  """Checks that constants can be chosen by the even problems and measured on the odd ones.

  Args:
    recordings: The recordings.
    named: The flag that named them, with its value.

  Raises:
    RecordingsError: One of the halves has no right row whose end is known.
  """
  for rest, half in enumerate(('even', 'odd')):
    right = recordings.weight * recordings.correct * (recordings.problem % 2 == rest)
    if not right.any():
      raise RecordingsError(
        f'{named}: no row of the {half} problems is right, and constants are chosen by the even problems and measured on the '
        'odd ones; fix: rollouts of more problems'
      )


def _own(folder: pathlib.Path, files: list[pathlib.Path]) -> list[pathlib.Path]:
  """Returns the files without those of evaluations within a run, unless there are no others."""
  return [file for file in files if 'evaluations' not in file.relative_to(folder).parts] or files


def _read(file: pathlib.Path) -> dict[str, np.ndarray]:
  try:
    found = read_arrays(file)
  except DamagedFile as error:
    raise RecordingsError(f'{error}, or leave it out') from error
  by_token = _OF_TOKENS + (_OF_TURNS if 'turn' in found else ())
  if lacking := [name for name in (*_ROW_ARRAYS, *by_token, *_NUMBERS) if name not in found]:
    raise RecordingsError(
      f'{file}: holds no {lacking[0]!r}; fix: files that this version of espo_jax.train or espo_jax.evaluate wrote'
    )
  if 'turn' in found and found.get('reset_rule', False):
    raise RecordingsError(
      f'{file}: its stop rule began anew with each turn, and a replay carries the rule on; fix: rollouts of a run with '
      'environment.reset_rule = False'
    )
  shape = found['regret'].shape if found['regret'].ndim == 2 else (found['correct'].size, 0)
  expected = dict.fromkeys(_ROW_ARRAYS, shape[:1]) | dict.fromkeys(by_token, shape) | dict.fromkeys(_NUMBERS, ())
  fix = 'fix: a copy of it, or leave it out'
  for name, wanted in expected.items():
    if found[name].shape != wanted:
      raise RecordingsError(f'{file}: {name!r} has the shape {found[name].shape}, not {wanted}; {fix}')
  if found['samples'] < 1:
    raise RecordingsError(f"{file}: 'samples' = {found['samples']}: not above 0; {fix}")
  return _of_policy(found) if 'turn' in found else found | {'ends': _last_ends(found)}


def _last_ends(found: dict[str, np.ndarray]) -> Bool[np.ndarray, 'N T']:
  """Returns the end tokens of responses: the last token where the horizon did not cut the row."""
  columns = np.arange(found['regret'].shape[1])
  return found['ended'].astype(bool)[:, None] & (columns == found['full_length'][:, None] - 1)


def _of_policy(found: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Returns the recording of episodes without the columns of observations, which no rule sees."""
  own = found['turn'] >= 0
  order = np.argsort(~own, axis=1, kind='stable')
  moved = {name: np.take_along_axis(found[name], order, axis=1) for name in (*_OF_TOKENS, 'ends')}
  return found | moved | {'full_length': own.sum(axis=1)}


def _weight(found: dict[str, np.ndarray], file: pathlib.Path) -> Float[np.ndarray, 'N']:
  """Returns the weight of each row.

  The end of a stopped row without a shadow is not known, so its weight is 0. The stopped rows with a shadow stand for all of
  them.
  """
  if np.any(found.get('stop_reason', 0) == StopReason.SETTLED):
    raise RecordingsError(
      f"{file}: a rule settled rows, whose own end is not known; fix: record in the arm 'never', or with another stop.returns "
      "than 'graded'"
    )
  if found['stopped'].any() and not found['shadow_share']:
    raise RecordingsError(
      f"{file}: rows were stopped and none went on; fix: record with --config.stop.shadow_share=1.0, or in the arm 'never'"
    )
  share = max(float(found['shadow_share']), 1e-6)
  return np.where(found['stopped'], found['shadow'] / share, 1.0).astype(np.float32)


def _in_all(found: list[dict[str, np.ndarray]], name: str) -> bool:
  """Returns whether all recordings have an array of features, with as many numbers per token."""
  return all(name in one for one in found) and len({one[name].shape[2:] for one in found}) == 1


def widened(array: np.ndarray, width: int) -> np.ndarray:
  """Pads the columns of a token array with zeros; an array with one number per row is returned as it is."""
  if array.ndim == 1:
    return array
  return np.pad(array, [(0, width - size if axis == 1 else 0) for axis, size in enumerate(array.shape)])

"""Reads what trainings leave, and compares two of them bit for bit."""

import json
import pathlib
from typing import Any

import jax
import numpy as np
from jax.sharding import SingleDeviceSharding
from orbax.checkpoint.experimental import v1 as ocp

from espo_jax.learner.checkpoint import load, survey

OF_THE_PROCESS = ('seconds/', 'tokens_per_second', 'process/')  # metrics that two equal runs do not share


def lines(workdir: pathlib.Path, stage: str) -> list[dict]:
  """Returns the metrics of a stage without those of the process. The run may still be writing them."""
  path = workdir / stage / 'metrics.jsonl'
  text = path.read_text().rpartition('\n')[0] if path.exists() else ''
  return [{k: v for k, v in json.loads(line).items() if not k.startswith(OF_THE_PROCESS)} for line in text.splitlines()]


def stages(workdir: pathlib.Path) -> list[str]:
  """Returns the stages that have a folder of checkpoints, such as `arms/espo`."""
  return sorted(str(path.parent.relative_to(workdir)) for path in workdir.rglob('checkpoints'))


def newest_state(workdir: pathlib.Path, stage: str) -> dict[str, np.ndarray]:
  """Returns the arrays of the newest checkpoint of a stage by their paths, which begin with its step.

  Raises:
    ValueError: The checkpoint is damaged, or there is none.
  """
  folder = workdir / stage / 'checkpoints'
  found = survey(folder)
  if not found or found[max(found)]:
    raise ValueError(f'{folder}: {found or "there is no checkpoint"}')
  step, here = max(found), SingleDeviceSharding(jax.devices()[0])
  saved = ocp.metadata(folder / str(step)).metadata
  state = load(folder / str(step), jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), saved))
  paths = jax.tree_util.tree_flatten_with_path(state)[0]
  return {f'{step}/{jax.tree_util.keystr(path, simple=True, separator="/")}': np.asarray(x) for path, x in paths}


def difference(workdir: pathlib.Path, reference: pathlib.Path) -> str:
  """Returns the first difference between two finished runs of the same config; '' if they are equal bit for bit.

  It compares the checkpoints of all stages, their metrics except those of the process, evaluations, examples and rollouts.
  """
  ours, theirs = _kept(workdir), _kept(reference)
  if ours.keys() != theirs.keys():
    return f'files on one side only: {", ".join(sorted(ours.keys() ^ theirs.keys())[:5])}'
  for name, content in theirs.items():
    if ours[name] != content:
      return f'{name} differs'
  return next(filter(None, (stage_difference(workdir, reference, stage) for stage in stages(reference))), '')


def stage_difference(workdir: pathlib.Path, reference: pathlib.Path, stage: str) -> str:
  """Returns the first difference between a stage of two finished runs of the same config; '' if there is none, bit for bit.

  It compares the newest checkpoints, and the metrics except those of the process.
  """
  for mine, row in zip(lines(workdir, stage), lines(reference, stage), strict=False):
    if mine != row:
      return f'{stage}, step {row["step"]}: {_unequal(mine, row)} differ in metrics.jsonl'
  if len(lines(workdir, stage)) != len(lines(reference, stage)):
    return f'{stage}: {len(lines(workdir, stage))} lines of metrics, not {len(lines(reference, stage))}'
  try:
    ours, theirs = newest_state(workdir, stage), newest_state(reference, stage)
  except ValueError as error:
    return str(error)
  if ours.keys() != theirs.keys():
    return f'{stage}: the newest checkpoint has other arrays or another step'
  return next((f'{stage}: {name} differs' for name, array in theirs.items() if not same(ours[name], array)), '')


def same(ours: Any, theirs: Any) -> bool:
  """Returns whether the arrays of two trees of one structure are equal bit for bit, with their types and shapes."""

  def equal(x: Any, y: Any) -> bool:
    x, y = np.asarray(x), np.asarray(y)
    return x.dtype == y.dtype and x.shape == y.shape and x.tobytes() == y.tobytes()

  return jax.tree.all(jax.tree.map(equal, ours, theirs))


def _kept(workdir: pathlib.Path) -> dict[str, bytes]:
  """Returns the files that equal runs share, and the names of the other files and of checkpoints."""
  equal = ('evaluation.json', 'examples.json', 'curve.json')
  found = {}
  for path in workdir.rglob('*'):
    name = path.relative_to(workdir)
    if path.is_dir() or 'tensorboard' in name.parts or 'checkpoints' in name.parts:
      continue
    found[str(name)] = path.read_bytes() if name.name in equal or name.suffix == '.npz' else b''
  return found | {
    f'{stage}/checkpoints/{path.name}': b'' for stage in stages(workdir) for path in (workdir / stage / 'checkpoints').iterdir()
  }


def _unequal(mine: dict, row: dict) -> str:
  return ', '.join(sorted(name for name in mine.keys() | row.keys() if mine.get(name) != row.get(name))[:5])

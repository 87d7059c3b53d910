"""Records the answers of an evaluation for espo_jax.replay.

A batch is written as a part before its answers are, so that an interrupted evaluation lacks no part. At the end all parts
become one file. An answer's row in it does not depend on the size of the batches.
"""

import pathlib
import shutil
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from espo_jax import monitor, parallel
from espo_jax.evaluate.answers import Answered
from espo_jax.parallel.storage import read_arrays, read_json
from espo_jax.replay.recordings import widened

PARTS = 'recorded'  # the folder of the parts
ROWS = 'rollouts/rows.npz'
_SCALE = 'stop.json'


class Scale(NamedTuple):
  """What a stop rule compares with: the mean and the variance of the regret in nats, and the share of right answers."""

  mu: float
  var: float
  success: float


def scale_of(recorded: Mapping[str, np.ndarray]) -> Scale:
  """Computes the scale of recorded rows over all tokens up to each row's own end."""
  regret = recorded['regret'][_real(recorded)].astype(np.float64)
  return Scale(float(regret.mean()), float(regret.var()), float(recorded['correct'].mean()))


def measured_scale(output: pathlib.Path, first_batch: Callable[[], Answered]) -> Scale:
  """Returns the scale that an evaluation was begun with, so that it resumes with the same one.

  Args:
    output: The folder of the evaluation, which keeps the scale.
    first_batch: A function that samples the first batch without a stop rule and records it. A new evaluation calls it.
  """
  path = output / _SCALE
  known = parallel.from_first(lambda: read_json(path) if path.exists() else None)
  if known is not None:
    return Scale(**known)
  recorded = first_batch().recorded
  assert recorded is not None
  scale = scale_of(recorded)
  if parallel.is_first():
    monitor.atomic_write_text(path, monitor.to_json(scale._asdict(), indent=2) + '\n')
  return scale


def write_part(output: pathlib.Path, number: int, recorded: Mapping[str, np.ndarray]) -> None:
  """Writes the rows of one batch."""
  monitor.atomic_write_arrays(output / PARTS / f'{number:06d}.npz', recorded)


def join_parts(output: pathlib.Path, config: Mapping[str, Any], samples: int, total: int, *, constant_value: bool) -> None:
  """Replaces the parts of a finished evaluation by one file of `total` rows. Calling it again does nothing.

  Args:
    output: The folder of the evaluation.
    config: The config with the constants of the stop rules, which a replay reads.
    samples: The number of answers to each problem.
    total: The number of answers of the evaluation.
    constant_value: Whether the policy has no critic and no success rate of its own. Then every value is the share of right
      answers.

  Raises:
    OutputError: A part is missing.
  """
  if (output / ROWS).exists():
    shutil.rmtree(output / PARTS, ignore_errors=True)  # a kill may have left some beside the whole
    return
  parts = []
  for path in sorted((output / PARTS).glob('*.npz')):
    parts.append(read_arrays(path))
  if (count := sum(len(part['correct']) for part in parts)) != total:
    raise monitor.OutputError(f'{output / PARTS}: {count} of {total} answers are recorded; fix: another --output')
  width = max(part['regret'].shape[1] for part in parts)
  rows = {name: np.concatenate([widened(part[name], width) for part in parts]) for name in parts[0]}
  path = output / _SCALE
  scale = Scale(**read_json(path)) if path.exists() else scale_of(rows)
  if constant_value:
    rows['values'] = np.where(_real(rows), np.float32(scale.success), np.float32(0))
  constants = {
    'mu': np.float32(scale.mu),
    'var': np.float32(scale.var),
    'shadow_share': np.float32(1),
    'samples': np.int32(samples),
  }
  monitor.atomic_write_text(output / 'config.json', monitor.to_json(config, indent=2) + '\n')
  monitor.atomic_write_arrays(output / ROWS, rows | constants)
  shutil.rmtree(output / PARTS)


def _real(recorded: Mapping[str, np.ndarray]) -> np.ndarray:
  """Returns which columns hold tokens, also those after a stop."""
  return np.arange(recorded['regret'].shape[1]) < recorded['full_length'][:, None]

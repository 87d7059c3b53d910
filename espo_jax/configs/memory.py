"""Suggests what to lower after memory has run out: fields and values, each of which is valid if the other fields stay."""

from collections.abc import Iterator
from typing import Any

import ml_collections

TRAINING = ('warm start', 'calibration', 'rollout', 'score', 'update', 'evaluation')


def smaller(config: ml_collections.ConfigDict, phase: str) -> dict[str, Any]:
  """Returns fields and values with which a phase needs less memory, the most effective first.

  Args:
    config: The config of the run that ran out of memory.
    phase: The phase that ran out of memory. A name that is not in `TRAINING` stands for all phases.
  """
  chosen = [phase] if phase in TRAINING else TRAINING
  return {field: value for name in chosen for field, value in _FIELDS[name](config) if value is not None}


def _warm_start(c: ml_collections.ConfigDict) -> Iterator[tuple[str, Any]]:
  if 'warm_start' in c.stages:
    yield 'warm_start.batch', _half(c, c.warm_start.batch)
    yield from _gradient(c)


def _calibration(c: ml_collections.ConfigDict) -> Iterator[tuple[str, Any]]:
  if 'calibration' in c.stages:
    yield 'calibration.prompts', _half(c, c.calibration.prompts)
    yield from _gradient(c)


def _rollout(c: ml_collections.ConfigDict) -> Iterator[tuple[str, Any]]:
  yield 'rollout.slots', _half(c, c.rollout.slots or c.rollout.prompts * c.rollout.samples)
  shards, prompts = _shards(c), c.rollout.prompts
  parts = (n for n in range(c.rollout.parts + 1, prompts + 1) if prompts % n == 0 and prompts // n % shards == 0)
  yield 'rollout.parts', next(parts, None)


def _score(c: ml_collections.ConfigDict) -> Iterator[tuple[str, Any]]:
  yield 'learner.micro_batches', _more_parts(c)
  yield 'learner.logit_chunk', fewer_tokens(c)


def _update(c: ml_collections.ConfigDict) -> Iterator[tuple[str, Any]]:
  yield 'learner.micro_batches', _more_parts(c)
  yield from _gradient(c)


def _evaluation(c: ml_collections.ConfigDict) -> Iterator[tuple[str, Any]]:
  yield 'eval.batch', _half(c, min(c.eval.batch, c.eval.problems))


def _gradient(c: ml_collections.ConfigDict) -> Iterator[tuple[str, Any]]:
  yield 'model.remat', None if c.model.remat == 'full' else 'full'
  yield 'learner.logit_chunk', fewer_tokens(c)


def _half(c: ml_collections.ConfigDict, rows: int) -> int | None:
  """Returns about half as many rows, a number that the mesh splits evenly; None if there is no smaller number."""
  half = rows // 2 - rows // 2 % _shards(c)
  return half or None


def fewer_tokens(c: ml_collections.ConfigDict) -> int:
  """Returns a smaller `learner.logit_chunk`: half of it, or 128 in place of 0, which is 441 for Qwen2.5's vocabulary."""
  return max(1, c.learner.logit_chunk // 2) if c.learner.logit_chunk else 128


def _more_parts(c: ml_collections.ConfigDict) -> int | None:
  """Returns the next larger number of parts that divides a minibatch; None if each part is already a single row."""
  rows = c.rollout.prompts * c.rollout.samples // c.learner.minibatches
  return next((n for n in range(c.learner.micro_batches + 1, rows + 1) if rows % n == 0), None)


def _shards(c: ml_collections.ConfigDict) -> int:
  return max(c.mesh.data, 1) * max(c.mesh.fsdp, 1)


_FIELDS = {
  'warm start': _warm_start,
  'calibration': _calibration,
  'rollout': _rollout,
  'score': _score,
  'update': _update,
  'evaluation': _evaluation,
}

"""Orbax checkpoints of a stage: asynchronous, atomic, the last few and the best few kept."""

import pathlib
from typing import Any

import jax
from orbax.checkpoint.experimental import v1 as ocp


class Checkpoints:
  """The checkpoints of one stage under one folder. A checkpoint exists whole or not at all."""

  def __init__(self, directory: str | pathlib.Path, *, keep_last: int = 2, keep_best: int = 1):
    policies = ocp.training.preservation_policies
    self._checkpointer = ocp.training.Checkpointer(
      pathlib.Path(directory).absolute(),
      preservation_policy=policies.AnyPreservationPolicy(
        [
          policies.LatestN(keep_last),
          policies.BestN(
            get_metric_fn=lambda metrics: metrics['accuracy'], n=keep_best, keep_checkpoints_without_metrics=False
          ),
        ]
      ),
      cleanup_tmp_directories=True,
    )

  @property
  def latest(self) -> tuple[int, bool] | None:
    """The newest step, and whether the stage was done with it."""
    newest = self._checkpointer.latest
    if newest is None:
      return None
    return newest.step, bool(self._checkpointer.metadata(newest.step).custom_metadata['done'])

  def save(self, step: int, state: Any, *, done: bool, accuracy: float | None = None) -> None:
    """Start writing `state`; returns once its buffers may be reused."""
    self._checkpointer.save_async(
      step,
      state,
      force=True,
      metrics=None if accuracy is None else {'accuracy': accuracy},
      custom_metadata={'done': done},
    )

  def load(self, like: Any, step: int | None = None) -> Any:
    """The state of `step`, or the newest; shapes, dtypes and shardings are those of `like`."""
    return self._checkpointer.load(step, jax.tree.map(_abstract, like))

  def close(self) -> None:
    """Wait for what is being written."""
    self._checkpointer.close()

  def __enter__(self) -> 'Checkpoints':
    return self

  def __exit__(self, *_: object) -> None:
    self.close()


def _abstract(x: jax.Array) -> jax.ShapeDtypeStruct:
  return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)

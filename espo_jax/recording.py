"""Rollouts written down for `espo_jax.replay`: what a stop rule sees of each row, and what became of the row."""

import pathlib

import numpy as np
from jaxtyping import Array, Float

from espo_jax import monitor, parallel
from espo_jax.experiment import Experiment
from espo_jax.stops import Adaptive
from espo_jax.types import StopReason, Trajectories


def write_rollout(
  exp: Experiment, rows: Trajectories, correct: Float[Array | np.ndarray, 'N'], adaptive: Adaptive, path: pathlib.Path
) -> None:
  """Write a rollout as a NumPy archive: the same bytes whenever its step is taken again.

  Args:
    exp: The experiment.
    rows: The rollout's rows.
    correct: 1 where a row's whole text is right.
    adaptive: What the stop rule carried into the rollout.
    path: The path of the archive.
  """
  rows, correct, adaptive = exp.fetch((rows, correct, adaptive))
  if not parallel.is_first():
    return
  columns = np.arange(int(rows.full_length.max()))
  every = exp.config.critic.every if exp.model.separate_critic else 1
  last = rows.tokens[np.arange(len(rows.tokens)), rows.full_length - 1]
  monitor.atomic_write_arrays(
    path,
    {
      'regret': rows.regret[:, columns],
      'values': rows.values[:, columns // every * every],  # those that the rule saw
      'full_length': rows.full_length,
      'ended': np.isin(last, exp.end_tokens),
      'correct': correct,
      'stopped': rows.stop_reason == StopReason.STOPPED,
      'shadow': rows.shadow,
      'shadow_share': np.float32(exp.config.stop.shadow_share),
      'mu': adaptive.mu,
      'var': adaptive.var,
      'samples': np.int32(exp.config.rollout.samples),
    },
  )

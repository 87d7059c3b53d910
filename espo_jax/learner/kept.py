"""Which rows of a batch are trained on: not those that a stop rule pruned, and a bounded number of each prompt."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from espo_jax import objectives
from espo_jax.types import Trajectories


def kept_rows(rows: Trajectories, scores: Float[Array, 'P G'], most: int) -> Bool[Array, 'P G']:
  """Returns whether each row is trained on.

  Args:
    rows: The rows as the stop rule ended them.
    scores: The scores of each prompt's samples.
    most: The most rows of a prompt, those whose scores vary most; 0 for all.
  """
  keep = (rows.begun & ~rows.pruned).reshape(scores.shape)
  return objectives.most_varied(scores, keep, most) if most else keep


def in_baseline(rows: Trajectories, keep: Bool[Array, 'P G'], baseline: str) -> Bool[Array, 'P G']:
  """Returns the rows that the statistics of a group are taken over.

  Args:
    rows: The rows as the stop rule ended them.
    keep: Whether each row is trained on.
    baseline: 'kept' for these rows alone, or 'all' for every row that was begun.
  """
  return keep if baseline == 'kept' else rows.begun.reshape(keep.shape)


def scores_differ(scores: Float[Array, 'P G K'], keep: Bool[Array, 'P G'] | None) -> Bool[Array, 'P']:
  """Returns whether any of the `K` scores differs within a group, among the rows `keep`; None for all rows."""
  if keep is None:
    return (scores.max(axis=1) > scores.min(axis=1)).any(axis=-1)
  its = keep[..., None]
  highest, lowest = jnp.where(its, scores, -jnp.inf).max(axis=1), jnp.where(its, scores, jnp.inf).min(axis=1)
  return (highest > lowest).any(axis=-1)


@jax.jit
def trained_on(rows: Trajectories, keep: Bool[Array, 'N'] | None) -> Trajectories:
  """Returns the rows in which those that are not kept have no tokens."""
  return rows if keep is None else rows.without(~keep)


@jax.jit
def row_sizes(rows: Trajectories, keep: Bool[Array, 'N'] | None) -> Int[Array, 'N']:
  """Returns the number of tokens that a row takes up in an update, prompt included; 0 if it is not kept."""
  tokens = rows.prompt_lengths + rows.length
  return tokens if keep is None else jnp.where(keep, tokens, 0)

"""The last responses to the problems of a pool, kept on the host as a part of the train state."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jaxtyping import Int

from espo_jax.rollout import Reuse
from espo_jax.types import Candidates, Drafts, Trajectories


def no_drafts(reuse: Reuse, problems: int, samples: int, horizon: int, vocab_size: int) -> Drafts:
  """Returns the drafts before the first response: all of length 0.

  Args:
    reuse: How drafts are verified, which says what is kept beside their tokens.
    problems: The number of problems.
    samples: The number of responses per problem.
    horizon: The most tokens of a response.
    vocab_size: The number of token ids, the most candidates that there may be.
  """
  shape = (problems, samples, horizon)

  def numbers(*more: int) -> np.ndarray:
    return np.zeros((*shape, *more), jax.dtypes.canonicalize_dtype(np.float64))

  candidates = None
  if count := reuse.recorded(vocab_size):
    candidates = Candidates(np.zeros((*shape, count), np.int32), numbers(count))
  return Drafts(
    tokens=np.zeros(shape, np.int32),
    length=np.zeros(shape[:2], np.int32),
    logprobs=numbers() if reuse.form == 'published' else None,
    uniforms=numbers() if reuse.form == 'coupled' else None,
    candidates=candidates,
  )


def drafts_of(drafts: Drafts, problems: Int[np.ndarray, 'P']) -> Drafts:
  """Returns the drafts of some problems."""
  return jax.tree.map(lambda x: x[problems], drafts)


def put_rows(drafts: Drafts, problems: Int[np.ndarray, 'P'], rows: Drafts) -> None:
  """Replaces the drafts of some problems, in place.

  Args:
    drafts: The drafts of all problems.
    problems: The problems.
    rows: The new drafts of these problems.
  """
  for old, new in zip(jax.tree.leaves(drafts), jax.tree.leaves(rows), strict=True):
    old[problems] = new


def next_drafts(rows: Trajectories, fetch: Callable[[Any], Any], *, form: str, samples: int) -> Drafts:
  """Returns the rows as drafts of the next ones, on the host, a shadow row up to its own end.

  Args:
    rows: The rows, sampled with drafts.
    fetch: The function that fetches whole arrays to the host, such as `Experiment.fetch`.
    form: The form of reuse, which says what is kept beside their tokens.
    samples: The number of rows per prompt.
  """
  assert rows.reused is not None
  logprobs = rows.logprobs if form == 'published' else None
  fields = fetch((rows.tokens, rows.full_length, logprobs, rows.reused.uniforms, rows.candidates))
  return Drafts(*jax.tree.map(lambda x: x.reshape(-1, samples, *x.shape[1:]), fields))

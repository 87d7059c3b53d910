"""Latent-Trajectory's signals: how straight the policy's state moves while a row is decoded."""

from typing import NamedTuple

import flax.struct
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from espo_jax.registry import source
from espo_jax.stops.controller import Memory, Score, Threshold, at_beta, controlled
from espo_jax.stops.registered import register
from espo_jax.stops.rule import Observation, StopState


class Path(flax.struct.PyTreeNode):
  """The path of a row's state so far, from the mean of one segment of its tokens to the mean of the next."""

  tokens: Int[Array, 'B']  # their number
  total: Float[Array, 'B K']  # the sum of the states of the segment that is not complete
  start: Float[Array, 'B K']  # the mean of the first segment
  here: Float[Array, 'B K']  # the mean of the newest complete segment
  cumulative: Float[Array, 'B']  # the sum of the moves' lengths
  headings: Float[Array, 'B K']  # the sum of the moves' directions, each of length 1


class Signals(NamedTuple):
  """The signals of a path. High `net` and `aligned` and low `cumulative` go with right answers.

  Attributes:
    net: The length of the whole move over the number of segments.
    cumulative: The sum of the lengths of the moves from segment to segment.
    aligned: The mean cosine between a move and the whole move; a move of length 0 counts as 0.
  """

  net: Float[Array, 'B']
  cumulative: Float[Array, 'B']
  aligned: Float[Array, 'B']


def first(batch: int, directions: int) -> Path:
  """Returns the paths of rows without tokens."""
  wide = jnp.zeros((batch, directions))
  return Path(jnp.zeros(batch, jnp.int32), wide, wide, wide, jnp.zeros(batch), wide)


def step(path: Path, state: Float[Array, 'B K'], segment: int) -> Path:
  """Adds the state of a token to the paths, whose segments have `segment` tokens each."""
  tokens, total = path.tokens + 1, path.total + state
  complete, is_first = tokens % segment == 0, tokens <= segment
  mean = total / segment
  move = jnp.where((complete & ~is_first)[:, None], mean - path.here, 0.0)
  length, heading = _split(move)
  return Path(
    tokens=tokens,
    total=jnp.where(complete[:, None], 0.0, total),
    start=jnp.where((complete & is_first)[:, None], mean, path.start),
    here=jnp.where(complete[:, None], mean, path.here),
    cumulative=path.cumulative + length,
    headings=path.headings + heading,
  )


def signals(path: Path, segment: int) -> Signals:
  """Returns the signals of the complete segments. All are 0 before there are two of them."""
  segments = (path.tokens // segment).astype(path.cumulative.dtype)
  moved, known = path.here - path.start, segments > 1
  length, heading = _split(moved)
  aligned = (path.headings * heading).sum(axis=1) / jnp.maximum(segments - 1, 1)
  net = length / jnp.maximum(segments, 1)
  return Signals(jnp.where(known, net, 0.0), path.cumulative, jnp.where(known, aligned, 0.0))


def _split(move: Float[Array, 'B K']) -> tuple[Float[Array, 'B'], Float[Array, 'B K']]:
  """Returns the length and the direction of each move; a move of length 0 has the direction 0."""
  length = jnp.linalg.norm(move, axis=1)
  return length, move / jnp.where(length > 0, length, 1.0)[:, None]


@register('latent_trajectory')
@source('Latent-Trajectory, arXiv 2510.10494', 'segment')
@controlled(beta_0=-0.2, beta_min=-100.0, beta_max=100.0)
def latent_trajectory(
  *, segment: int = 500, net: float = 0.0, cumulative: float = 0.0, aligned: float = 1.0, directions: int = 16
) -> tuple[Score, Threshold, Memory]:
  """Stops a row once its state has not moved straight ahead: the score is a weighted sum of signals of its path.

  With the means `h_1, ..., h_N` of the states of each `segment` tokens, the whole move `u = h_N - h_1` and the moves
  `v_n = h_n - h_{n-1}`, the score is

      cumulative sum_n |v_n| - net |u| / N - aligned mean_n cos(v_n, u)

  It is the lowest float before two segments are complete, so that no threshold is below it. The paper selects among samples by
  these signals, as the decoder `lt_select` does, and fits its thresholds by cross-validation. To end a row as a failure by them
  is our reading [I]. So are the weights, of which the default takes the one signal without a scale. The paper averages the
  signals over all layers. Here they are those of the final state [I], projected onto random orthonormal directions, which
  shortens all moves alike on average.

  Args:
    segment: The number of tokens of a segment.
    net: The weight of the whole move's length over the number of segments.
    cumulative: The weight of the sum of the moves' lengths.
    aligned: The weight of the mean cosine between a move and the whole move.
    directions: The number of directions; with as many as a state has numbers, nothing is lost.
  """

  def step_path(path: Path, seen: Observation) -> Path:
    assert seen.projections is not None  # the rule reads them
    return step(path, seen.projections, segment)

  def score(state: StopState, seen: Observation) -> Array:
    del seen
    its = signals(state.row, segment)
    weighted = cumulative * its.cumulative - net * its.net - aligned * its.aligned
    return jnp.where(state.row.tokens >= 2 * segment, weighted, jnp.finfo(weighted.dtype).min)

  memory = Memory(lambda batch: first(batch, directions), step_path, frozenset({'projections'}), directions)
  return score, at_beta, memory

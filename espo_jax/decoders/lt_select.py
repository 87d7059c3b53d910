"""Latent-Trajectory's selection: samples are drawn one after another until the state of one moves straight ahead."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from espo_jax.decoders.majority import majority
from espo_jax.decoders.registered import register
from espo_jax.decoders.samples import Choice, Decoder, Samples, out_of_range
from espo_jax.registry import source


class Signals(NamedTuple):
  """The signals of the path of a sample's state, averaged over segments of its tokens.

  Attributes:
    net: The length of the whole move over the number of segments.
    cumulative: The sum of the lengths of the moves from segment to segment.
    aligned: The mean cosine between a move and the whole move; a move of length 0 counts as 0.
  """

  net: float
  cumulative: float
  aligned: float


def signals(states: Float[np.ndarray, 'T K'], segment: int) -> Signals | None:
  """Computes the signals of a sample's states in float64; None if it has fewer than two segments.

  Tokens behind the last complete segment do not count.
  """
  count = len(states) // segment
  if count < 2:
    return None
  means = states[: count * segment].astype(np.float64).reshape(count, segment, -1).mean(axis=1)
  moves, whole = np.diff(means, axis=0), means[-1] - means[0]
  lengths, length = np.linalg.norm(moves, axis=1), float(np.linalg.norm(whole))
  cosines = np.divide(moves @ whole, lengths * length, out=np.zeros(count - 1), where=lengths * length > 0)
  return Signals(length / count, float(lengths.sum()), float(cosines.mean()))


@register('lt_select')
@source('Latent-Trajectory, arXiv 2510.10494', 'segment', 'tries')
def lt_select(
  *,
  segment: int = 500,
  tries: int = 5,
  threshold: float = 0.5,
  net: float = 0.0,
  cumulative: float = 0.0,
  aligned: float = 1.0,
) -> Decoder:
  """Takes the first of `tries` samples whose score reaches `threshold`; if none does, these samples vote.

  With the means `h_1, ..., h_N` of the states of each `segment` tokens, the whole move `u = h_N - h_1` and the moves
  `v_n = h_n - h_{n-1}`, the score is

      net |u| / N + aligned mean_n cos(v_n, u) - cumulative sum_n |v_n|

  A sample without two segments has no score and is not taken at once. Samples are drawn one after another, each to its end, and
  those behind the one that is taken cost nothing. The paper takes one signal with a threshold found by cross-validation, and
  averages it over all layers. Its released program divides `|u|` by `N - 1` instead. Here the states are recorded projections
  of the final state [I], and the weights and the threshold are options.

  Args:
    segment: The number of tokens of a segment.
    tries: The number of samples of which one may be taken at once.
    threshold: The least score of a sample that is taken at once [U].
    net: The weight of the whole move's length over the number of segments [U].
    cumulative: The weight of the sum of the moves' lengths [U].
    aligned: The weight of the mean cosine between a move and the whole move [U].
  """
  for name, value in (('segment', segment), ('tries', tries)):
    if value < 1:
      raise out_of_range(name, value, 'at least 1')

  def passes(states: Float[np.ndarray, 'T K']) -> bool:
    its = signals(states, segment)
    return its is not None and net * its.net + aligned * its.aligned - cumulative * its.cumulative >= threshold

  def choose(samples: Samples) -> Choice:
    tried = samples.first(tries)
    for sample, states in enumerate(tried.of_tokens('projections')):
      if passes(states):
        return Choice(sample, samples.first(sample + 1).total)
    return majority().choose(tried)

  return Decoder(choose, frozenset({'answers', 'lengths', 'projections'}), least_directions=2 if aligned else 1)

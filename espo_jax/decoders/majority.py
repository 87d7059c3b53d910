"""Self-consistency: the answer that most samples state."""

import numpy as np

from espo_jax.decoders.registered import register
from espo_jax.decoders.samples import Choice, Decoder, Samples
from espo_jax.decoders.votes import vote
from espo_jax.registry import source


@register('majority')
@source('Self-consistency, arXiv 2203.11171')
def majority() -> Decoder:
  """Takes the answer that most samples state. Among tied answers the one that was stated first wins.

  `maj@k` of a summary shares a tie among its answers instead, which is what this decoder does on average over all orders of the
  samples. All samples are drawn to their ends.
  """

  def choose(samples: Samples) -> Choice:
    return Choice(vote(samples.answers, np.ones(len(samples.answers))).sample, samples.total)

  return Decoder(choose, frozenset({'answers', 'lengths'}))

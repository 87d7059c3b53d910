"""The shortest sample, with all samples drawn to their ends."""

import numpy as np

from espo_jax.decoders.registered import register
from espo_jax.decoders.samples import Choice, Decoder, Samples
from espo_jax.registry import source


@register('shortest')
@source('ours, a control of First Finish Search, arXiv 2505.18149')
def shortest() -> Decoder:
  """Takes the shortest sample that ended by itself and states an answer; the earliest among equally short ones.

  If there is none, the first sample is taken. All samples are drawn to their ends. Its distance from `ffs` in tokens is what
  cancelling saves. Its distance in accuracy is what samples without an answer cost.
  """

  def choose(samples: Samples) -> Choice:
    lengths = np.where(samples.ended & samples.stated, samples.lengths.astype(np.float64), np.inf)
    return Choice(int(lengths.argmin()), samples.total)

  return Decoder(choose, frozenset({'answers', 'ended', 'lengths'}))

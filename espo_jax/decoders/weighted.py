"""Votes weighted by a score of the policy's own numbers."""

import numpy as np

from espo_jax.decoders.registered import register
from espo_jax.decoders.samples import Choice, Decoder, Samples
from espo_jax.decoders.scores import field_of, scores
from espo_jax.decoders.votes import vote
from espo_jax.registry import source


@register('weighted')
@source('Self-consistency, arXiv 2203.11171', 'score')
def weighted(*, score: str = 'logprob') -> Decoder:
  """Takes the answer whose samples have the largest sum of `exp(score)`. Among equal sums the answer stated first wins.

  With `logprob` the weight is the geometric mean of the tokens' probabilities: the paper's normalised weighted sum. The other
  scores are ours. All samples are drawn to their ends.

  Args:
    score: The score: `value` before the last token, minus the mean `regret`, or the mean `logprob` of the tokens.
  """
  field = field_of(score)

  def choose(samples: Samples) -> Choice:
    return Choice(vote(samples.answers, np.exp(scores(samples, score))).sample, samples.total)

  return Decoder(choose, frozenset({'answers', 'lengths', field}))

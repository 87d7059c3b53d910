"""Best of n by a score of the policy's own numbers."""

import numpy as np

from espo_jax.decoders.registered import register
from espo_jax.decoders.samples import Choice, Decoder, Samples
from espo_jax.decoders.scores import field_of, scores
from espo_jax.registry import source


@register('best_by')
@source('best of n, with scores of ours')
def best_by(*, score: str = 'value') -> Decoder:
  """Takes the sample with the highest score among those that state an answer; the earliest among equal scores.

  If no sample states an answer, the first one is taken. All samples are drawn to their ends. A policy without a critic has the
  same value everywhere, so that `value` then takes the first sample with an answer.

  Args:
    score: The score: `value` before the last token, minus the mean `regret`, or the mean `logprob` of the tokens.
  """
  field = field_of(score)

  def choose(samples: Samples) -> Choice:
    return Choice(int(np.where(samples.stated, scores(samples, score), -np.inf).argmax()), samples.total)

  return Decoder(choose, frozenset({'answers', 'lengths', field}))

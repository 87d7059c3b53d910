"""DeepConf offline: confidence-weighted votes of the most confident samples."""

import numpy as np

from espo_jax.decoders.confidence import CONFIDENCES, check_options
from espo_jax.decoders.registered import register
from espo_jax.decoders.samples import Choice, Decoder, Samples
from espo_jax.decoders.votes import vote
from espo_jax.registry import source


@register('deepconf')
@source('DeepConf, arXiv 2508.15260', 'window', 'keep')
def deepconf(*, confidence: str = 'bottom', window: int = 2048, keep: float = 0.1) -> Decoder:
  """Takes the answer with the largest sum of confidences among the `keep` most confident samples that state an answer.

  A token's confidence is minus the mean log-probability of the 20 likeliest tokens. A group is `window` tokens in a row.
  The confidence of a group is the mean confidence of its tokens. The confidence of a sample is one of these:

  | `confidence` | computed as |
  |---|---|
  | `bottom` | the mean of the lowest tenth of its groups |
  | `lowest` | its lowest group |
  | `tail` | the mean of its last `window` tokens |
  | `mean` | the mean of all tokens |

  In a sample of at most `window` tokens, all four equal the mean. A sample is kept if its confidence is at least the `1 - keep`
  quantile, interpolated as in the paper's code. Among equal sums the answer stated first wins. All samples are drawn to their
  ends. The paper publishes results with `keep` at 0.1 and 0.9.

  Args:
    confidence: The confidence of a sample: `bottom`, `lowest`, `tail` or `mean`.
    window: The number of tokens of a group and of the tail.
    keep: The share of the samples that vote; 1 for all.
  """
  if confidence not in CONFIDENCES:
    raise ValueError(f'confidence={confidence}: unknown; fix: one of {", ".join(CONFIDENCES)}')
  check_options(window, keep)
  of_sample = CONFIDENCES[confidence]

  def choose(samples: Samples) -> Choice:
    confidences = np.array([of_sample(row, window) for row in samples.of_tokens('confidence')])
    stated = samples.stated
    kept = stated & (confidences >= np.quantile(confidences[stated], 1 - keep)) if stated.any() else stated
    voters = [answer if votes else '' for answer, votes in zip(samples.answers, kept, strict=True)]
    return Choice(vote(voters, confidences).sample, samples.total)

  return Decoder(choose, frozenset({'answers', 'lengths', 'confidence'}))

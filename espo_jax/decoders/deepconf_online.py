"""DeepConf online: warm-up samples set a confidence below which later samples end."""

import numpy as np

from espo_jax.decoders.confidence import check_options, group_confidences
from espo_jax.decoders.registered import register
from espo_jax.decoders.samples import Choice, Decoder, Samples, out_of_range
from espo_jax.decoders.votes import vote
from espo_jax.registry import source


@register('deepconf_online')
@source('DeepConf, arXiv 2508.15260', 'warmup', 'keep', 'window', 'consensus')
def deepconf_online(*, warmup: int = 16, keep: float = 0.1, window: int = 2048, consensus: float = 0.95) -> Decoder:
  """Draws samples one after another, and ends those whose confidence falls below that of the best warm-up samples.

  1. The first `warmup` samples are drawn to their ends. The threshold is the `1 - keep` quantile of their lowest groups: see
     `deepconf`. A `keep` of 0.1 is the paper's DeepConf-low, and 0.9 its DeepConf-high.
  2. A later sample ends at the first token at which the mean confidence of its last `window` tokens is below the threshold.
  3. Sampling ends once one answer has the share `consensus` of all weight.

  A sample votes if its lowest group is not below the threshold. Its weight is the confidence of that group. No vote is cast by
  later samples that were ended, by warm-up samples below the threshold, or by samples shorter than `window` whose mean is below
  it. The paper's code leaves out the same samples. Among equal sums the answer stated first wins.

  The paper's code has no consensus. It is our reading [U] that step 3 is asked after the warm-up and after every later sample.
  Of 16 warm-up samples two vote at `keep = 0.1`, so that two equal answers can end the sampling.

  Args:
    warmup: The number of samples that set the threshold. With no more samples than that, none ends early.
    keep: The share of the warm-up samples that reaches the threshold.
    window: The number of tokens of a group.
    consensus: The share of the weight at which sampling ends; above 1 for never.
  """
  check_options(window, keep)
  if warmup < 1:
    raise out_of_range('warmup', warmup, 'at least 1')
  if not consensus > 0:
    raise out_of_range('consensus', consensus, 'above 0')

  def choose(samples: Samples) -> Choice:
    groups = [group_confidences(row, window) for row in samples.of_tokens('confidence')]
    lowest = np.array([its.min() for its in groups])
    threshold = np.quantile(lowest[:warmup], 1 - keep)
    voters = [answer if low >= threshold else '' for answer, low in zip(samples.answers, lowest, strict=True)]
    drawn = min(warmup, len(voters))
    tokens = int(samples.lengths[:drawn].sum())
    while drawn < len(voters) and vote(voters[:drawn], lowest).share < consensus:
      below = np.flatnonzero(groups[drawn] < threshold)
      length = int(samples.lengths[drawn])
      tokens += min(length, int(below[0]) + window) if below.size else length
      drawn += 1
    return Choice(vote(voters[:drawn], lowest).sample, tokens)

  return Decoder(choose, frozenset({'answers', 'lengths', 'confidence'}))

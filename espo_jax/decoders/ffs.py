"""First Finish Search: the sample that ends first, and the condition under which short samples are the right ones."""

import numpy as np
from jaxtyping import Bool, Float

from espo_jax.decoders.registered import register
from espo_jax.decoders.samples import Choice, Decoder, Samples, out_of_range
from espo_jax.registry import source


@register('ffs')
@source('First Finish Search, arXiv 2505.18149')
def ffs(*, least: int = 0) -> Decoder:
  """Decodes all samples side by side, takes the first that ends, and cancels the others; the earliest among equally short ones.

  The tokens are those of all samples up to the step at which the chosen one ended. If no sample ends after `least` tokens or
  more, the first one is taken and all tokens count.

  The method rests on right samples being shorter than wrong ones to the same problem. With right lengths like `N(m1, s1)` and
  wrong ones like `N(m0, s0)`, a shorter one is likelier right at every length only if `s0 = s1` and `m1 < m0`. If wrong lengths
  spread more, very short samples are more often wrong. An evaluation reports the accuracy by length and warns where it fails.

  Args:
    least: The number of tokens below which a sample that ends is not taken.
  """
  if least < 0:
    raise out_of_range('least', least, 'at least 0')

  def choose(samples: Samples) -> Choice:
    lengths = np.where(samples.ended & (samples.lengths >= least), samples.lengths.astype(np.float64), np.inf)
    sample = int(lengths.argmin())
    return Choice(sample, int(np.minimum(samples.lengths, lengths[sample]).sum()))

  return Decoder(choose, frozenset({'ended', 'lengths'}))


def least_length(lengths: Float[np.ndarray, 'N'], correct: Bool[np.ndarray, 'N']) -> float | None:
  """Estimates the length below which a shorter answer is less likely right.

  The log-odds of being right are quadratic in the length `l` if right and wrong lengths are normal:

      log(p / (1 - p)) + log(s0 / s1) + (l - m0)^2 / (2 s0^2) - (l - m1)^2 / (2 s1^2)

  For `s0 > s1` they have a maximum, whose length is returned. This condition is ours; the paper assumes that shorter is better.

  Args:
    lengths: The lengths of answers that ended by themselves, in tokens beyond the mean of their problem. Plain lengths would
      mostly tell hard problems, whose answers are long, from easy ones.
    correct: Whether each answer is right.

  Returns:
    The length; None if there is none, because wrong lengths do not spread more than right ones, or either kind has fewer than
    two answers, or right lengths have no spread.
  """
  right, wrong = lengths[correct].astype(np.float64), lengths[~correct].astype(np.float64)
  if min(right.size, wrong.size) < 2 or not 0 < right.var() < wrong.var():
    return None
  precise, wide = 1 / right.var(), 1 / wrong.var()
  return float((right.mean() * precise - wrong.mean() * wide) / (precise - wide))

"""SpecDec++: speculative decoding that stops drafting once a rejection is likely."""

from espo_jax.decoders.majority import majority
from espo_jax.decoders.registered import register
from espo_jax.decoders.samples import Decoder, out_of_range
from espo_jax.decoders.ways import Speculative
from espo_jax.registry import source


@register('speculative')
@source('SpecDec++, arXiv 2405.19715', 'threshold', 'least', 'most', 'blocks', 'mismatch', 'mixing')
def speculative(
  *,
  draft_blocks: int = 1,
  threshold: float = 0.3,
  least: int = 2,
  most: int = 20,
  blocks: int = 3,
  mismatch: float = 6.0,
  mixing: float = 0.15,
  steps: int = 300,
  rate: float = 0.003,
) -> Decoder:
  """Draws samples speculatively, with a head that says when to stop drafting, and lets them vote.

  The first blocks of the policy draft, and the whole policy verifies [I]; the paper drafts with a small model. A head reads the
  state of each draft and says how likely the draft is accepted. A sample drafts until

      1 - prod_i P(draft i is accepted) > threshold

  or `most` drafts, and never fewer than `least`. The samples have the law of the whole policy, and greedy ones are those of
  plain decoding. The tokens are all that were drafted, and one of the whole policy for each verification.

  The head has residual blocks with SiLU and a linear map to two classes. An evaluation fits it before it draws, to a response
  to each of its first 64 problems. In these, all tokens but a share `mixing` are replaced by drafts. The loss is the
  cross-entropy with the probability of acceptance, `min(1, p / q)`, as a soft label. Rejections weigh `mismatch` times as much,
  and the response's own tokens do not count. These responses have at most 256 tokens each, which are not counted. It is our
  reading [I] that the head is fitted by Adam, all at once, and that states are scaled to the root mean square 1.

  Args:
    draft_blocks: The number of first blocks that draft [U].
    threshold: The probability of a rejection above which a sample stops drafting; 1 for never.
    least: The least number of tokens that are drafted at a time.
    most: The most tokens that are drafted at a time.
    blocks: The number of residual blocks of the head.
    mismatch: The weight of rejections in the head's loss.
    mixing: The share of tokens to which the head is not fitted, because they are the response's own.
    steps: The number of steps of the fit [U].
    rate: The learning rate of the fit [U].
  """
  for name, value in (('draft_blocks', draft_blocks), ('least', least), ('steps', steps)):
    if value < 1:
      raise out_of_range(name, value, 'at least 1')
  if most < least:
    raise out_of_range('most', most, f'at least least={least}')
  if blocks < 0:
    raise out_of_range('blocks', blocks, 'at least 0')
  if not 0 <= threshold <= 1:
    raise out_of_range('threshold', threshold, 'from 0 to 1')
  if not 0 <= mixing < 1:
    raise out_of_range('mixing', mixing, 'at least 0, below 1')
  for name, number in (('mismatch', mismatch), ('rate', rate)):
    if not 0 < number < float('inf'):
      raise out_of_range(name, number, 'above 0')
  return majority()._replace(drawing=Speculative(draft_blocks, threshold, least, most, blocks, mismatch, mixing, steps, rate))

"""RISE at inference: turns that each revise the ones before, and a vote among them."""

from espo_jax.decoders.majority import majority
from espo_jax.decoders.registered import register
from espo_jax.decoders.samples import Decoder, out_of_range
from espo_jax.decoders.ways import Revision
from espo_jax.registry import source


@register('revise')
@source('RISE, arXiv 2407.18219')
def revise(*, window: int = 2, message: str = 'Your answer is incorrect. Try again.') -> Decoder:
  """Takes the answer that most turns state, where each turn is told that those before it are wrong.

  A sample is a turn, so five samples are five turns, as in the paper. The first turn is a plain sample. Every later one reads
  the question, the last `window` turns, and `message` behind each of them. Nobody grades the turns, so a right one is followed
  by the message too. Among equal votes the answer stated first wins. The tokens are those of all turns. What a turn reads of
  earlier ones is not written again, and costs no tokens.

  With `n` turns, `n` a power of two, the `pass@n` of such an evaluation is the paper's accuracy with an oracle that ends the
  episode at the first right turn. The `pass@k` for a smaller `k` is not, because it averages over all choices of `k` turns. The
  environment `retry` trains a policy on such episodes. The paper's window is two to five turns, and the default is ours [I].

  Args:
    window: The number of earlier turns that a turn reads [U].
    message: The text behind every turn that is read [U].
  """
  if window < 1:
    raise out_of_range('window', window, 'at least 1')
  if not message.strip():
    raise ValueError(f'message={message!r}: nothing asks for another turn; fix: a text')
  return majority()._replace(drawing=Revision(window, message))

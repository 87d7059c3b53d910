"""Ends the thinking sooner or later, by the weight of the tokens that end it (TLDR, arXiv 2505.07961)."""

import jax
import numpy as np
from jaxtyping import Array, Float, Int

from espo_jax.registry import source
from espo_jax.rollout.processors.processor import Processor, while_thinking
from espo_jax.rollout.processors.registered import register


@register('eot_scale')
@source('TLDR, arXiv 2505.07961')
def eot_scale(thinking_end: tuple[int, ...], *, bias: float = 0.0, tau: float = 1.0) -> Processor:
  r"""Scales the probability of each token that ends the thinking, until one was drawn.

  $$p'(e) \propto p(e)^{1/\tau} \exp(b), \qquad p'(v) \propto p(v) \text{ for all other tokens } v$$

  For $\tau = 1$ this adds the bias $b$ to the log-odds of ending. The paper scales where the thinking ends at decoding. Its
  formula is not known to us, so both forms are our reading [U]. With bias 0 and tau 1 nothing changes.

  Args:
    thinking_end: The ids of the tokens of which each ends the thinking.
    bias: The number $b$ that is added to the logits of these tokens, in nats; above 0 for shorter thinking.
    tau: The temperature of these tokens alone; above 1 for shorter thinking, since their probability is then raised.
  """
  if not 0 < tau < float('inf'):
    raise ValueError(f'tau={tau}: out of range; fix: a finite number above 0')
  if not abs(bias) < float('inf'):
    raise ValueError(f'bias={bias}: out of range; fix: a finite number')
  ends = np.array(thinking_end, np.int32)

  def change(logits: Float[Array, 'S V'], lengths: Int[Array, 'S']) -> Float[Array, 'S V']:
    del lengths
    total = jax.nn.logsumexp(logits, axis=-1, keepdims=True)
    return logits.at[:, ends].set(total + (logits[:, ends] - total) / tau + bias)

  return while_thinking(thinking_end, change)

"""Bounds the tokens of the thinking from below and from above (budget forcing, arXiv 2501.19393)."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from espo_jax.registry import source
from espo_jax.rollout.processors.processor import Processor, while_thinking
from espo_jax.rollout.processors.registered import register


@register('budget')
@source('s1, arXiv 2501.19393')
def budget(thinking_end: tuple[int, ...], end_tokens: tuple[int, ...], *, least: int = 0, most: int = 0) -> Processor:
  """Lets a row neither end its thinking before `least` tokens nor think for more than `most`.

  Before `least` tokens no token is drawn that ends the thinking or the response. After `most` tokens the next one is the token
  that ends the thinking, the first of several. Where the response itself is the thinking, the response ends with that token.
  The paper appends a word such as "Wait" where the thinking would have ended; here another token is drawn instead [U].

  Args:
    thinking_end: The ids of the tokens of which each ends the thinking.
    end_tokens: The ids of the tokens of which each ends the response.
    least: The number of tokens before which the thinking does not end.
    most: The number of tokens after which the thinking ends; 0 for no bound.
  """
  if least < 0:
    raise ValueError(f'least={least}: out of range; fix: at least 0')
  if most < 0 or 0 < most < least:
    raise ValueError(f'most={most}: out of range; fix: at least least={least}, or 0 for no bound')
  ends = np.array(sorted({*thinking_end, *end_tokens}), np.int32)

  def change(logits: Float[Array, 'S V'], lengths: Int[Array, 'S']) -> Float[Array, 'S V']:
    later = logits.at[:, ends].set(-jnp.inf)
    forced = jnp.full_like(logits, -jnp.inf).at[:, thinking_end[0]].set(0.0)
    logits = jnp.where(lengths[:, None] < least, later, logits)
    return jnp.where((lengths[:, None] >= most) & (most > 0), forced, logits)

  return while_thinking(thinking_end, change)

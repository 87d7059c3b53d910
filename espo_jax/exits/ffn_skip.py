"""FFN-SkipLLM: attention runs in every block, and the feed-forward networks of the middle blocks are skipped."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from espo_jax.exits.confidence import stream_cosine
from espo_jax.exits.policy import ExitPolicy, Observation
from espo_jax.exits.registered import register
from espo_jax.registry import source
from espo_jax.types import takes_numpy


@register('ffn_skip')
@source('FFN-SkipLLM, arXiv 2404.03865')
def ffn_skip(*, level: float = 0.95, first: int = 1, last: int = 1, warmup: int = 4) -> ExitPolicy:
  """Skips the feed-forward networks of a token's further middle blocks once one of them has changed its stream little.

  The similarity is the cosine between the streams before and after the last block's feed-forward network. Attention and the
  keys and values are computed in every block, so that the cache is complete. The first and the last blocks are cold regions,
  which are never skipped. Neither are the prompt and the first tokens of a response. A model without saturation skips nothing.

  A feed-forward network costs no time where all live rows skip it, as with one row. Otherwise it runs for the whole batch, and
  only the depth says what was skipped. `exits.every = 1` asks at every block. The heads are not read.

  Args:
    level: The least similarity at which a token skips.
    first: The number of first blocks that always run whole.
    last: The number of last blocks that always run whole.
    warmup: The number of first tokens of a response that are read whole.
  """

  @takes_numpy
  def hazard(obs: Observation, level: Float[Array, '']) -> Float[Array, 'B S']:
    return ((stream_cosine(obs.state, obs.before) >= level) & (obs.position >= warmup)).astype(jnp.float32)

  return ExitPolicy(level, hazard=hazard, top=last, earliest=first, part='ffn')

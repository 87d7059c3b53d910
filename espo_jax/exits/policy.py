"""The protocol of an exit policy, which decides how deep a token is read. The decoder calls its pure functions per block."""

from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from espo_jax.types import takes_numpy

KVFill = Literal['recompute', 'copy', 'monotone']
Part = Literal['block', 'ffn']


class Observation(NamedTuple):
  """What a policy sees of the tokens before block `l`, one of the blocks where they may exit.

  Attributes:
    logit: The output of the block's exit head.
    passed: The probability, by stick breaking over the heads, of an exit at this block or an earlier one.
    state: The residual stream that enters the block.
    before: The stream that entered the block before it, or the feed-forward part of that block where only this part is skipped.
    readout: `state -> logits`, the final norm followed by the LM head.
    position: The token's index in the response; the first is 0.
    total: The sum of the probabilities of the heads at earlier blocks.
    candidates: The candidate tokens, which the first exit has proposed: -1 there, and None where no gate reads candidates.
  """

  logit: Float[Array, 'B S']
  passed: Float[Array, 'B S']
  state: Float[Array, 'B S D']
  before: Float[Array, 'B S D']
  readout: Callable[[Float[Array, 'B S D']], Float[Array, 'B S V']]
  position: Int[Array, 'B S']
  total: Float[Array, 'B S']
  candidates: Int[Array, 'B S K'] | None = None


Hazard = Callable[[Observation, Float[Array, '']], Float[Array, 'B S']]
Schedule = Callable[[Int[Array, '...'], int, Float[Array, '']], Int[Array, '...']]
Router = Callable[[Float[Array, '...'], Float[Array, '']], Bool[Array, '...']]
Choice = Callable[[Float[Array, '...'], Float[Array, '']], tuple[Float[Array, '...'], Float[Array, '...']]]


@takes_numpy
def certain(logit: Float[Array, '...'], level: Float[Array, '']) -> tuple[Float[Array, '...'], Float[Array, '...']]:
  """Returns the log-probabilities of exiting and staying under a policy without randomness: both are 0."""
  del level
  return jnp.zeros_like(logit), jnp.zeros_like(logit)


class ExitPolicy(NamedTuple):
  """An exit policy. It decides before each block that has an exit head, or once per prompt, or follows a fixed schedule.

  By convention, *exit at `l`* skips block `l` and all blocks after it, apart from the last `top` ones.

  Attributes:
    level: The default of the policy's one number. It is traced, so a new value compiles nothing.
    hazard: `(observation, level) -> probability` of exiting here, given that the token has not exited before. None with a
      schedule or a router.
    schedule: `(position, blocks of the model, level) -> blocks` that a token at that position of the response runs through.
    router: `(keep, level) -> whether a block runs` for all tokens of a response, where `keep` is the probability that the
      block's head gives for the mean stream of the prompt. Blocks without a head run.
    choice: `(logit, level) -> log-probabilities` of exiting and of staying, for the learner. They are 0 without randomness.
    kv_fill: The keys and values of a token in the blocks that it skipped. With 'recompute' each block projects them from the
      token's last state. With 'copy' they are those of the last block that ran. With 'monotone' there are none, because no
      later token of the row runs a block that an earlier one skipped.
    bottom: The number of first blocks that run under a schedule; the other blocks that run are the last ones. With -1 all
      blocks that run are the first ones.
    top: The number of last blocks that run after an exit.
    earliest: The first block at which a token may exit.
    gated: Whether the policy reads `logit`, `passed` or `total` of an observation, so that it needs gates that have learned.
    part: The part of a block that is skipped: all of it, or the feed-forward network alone. Attention then runs in each block,
      and a block counts as skipped where its feed-forward network is.
  """

  level: float
  hazard: Hazard | None = None
  schedule: Schedule | None = None
  router: Router | None = None
  choice: Choice = certain
  kv_fill: KVFill = 'recompute'
  bottom: int = -1
  top: int = 0
  earliest: int = 0
  gated: bool = False
  part: Part = 'block'

  @property
  def leaves(self) -> bool:
    """Whether a token that skips blocks skips all the last ones, so that it is read from the stream at its exit."""
    return self.bottom < 0 and self.top == 0 and self.router is None and self.part == 'block'

  def runs(self, block: Int[Array, ''] | int, blocks: Int[Array, '...'], count: int) -> Array:
    """Returns whether a token that runs through `blocks` of `count` blocks runs through block number `block`."""
    if self.bottom < 0:
      return (block < blocks - self.top) | (block >= count - self.top)
    return (block < self.bottom) | (block >= count - (blocks - self.bottom))


@takes_numpy
def exit_pmf(hazards: Float[Array, '... E']) -> Float[Array, '... E+1']:
  """Returns the probabilities of exiting at each of `E` blocks, and of not exiting, by stick breaking.

  `P(l) = q_l prod_{m < l} (1 - q_m)`; the rest is the probability of no exit (arXiv 2603.21376).
  """
  left = jnp.cumprod(1 - hazards, axis=-1)
  before = jnp.concatenate([jnp.ones_like(left[..., :1]), left[..., :-1]], axis=-1)
  return jnp.concatenate([hazards * before, left[..., -1:]], axis=-1)


def log_choice(logit: Float[Array, '...']) -> tuple[Float[Array, '...'], Float[Array, '...']]:
  """Computes `log q` and `log (1 - q)` of `q = sigmoid(logit)`."""
  return jax.nn.log_sigmoid(logit), jax.nn.log_sigmoid(-logit)

"""The depth of each token: an exit policy decides it during sampling, and it is given during scoring.

One condition per block decides for the batch: the block runs if any live row needs it. Its keys and values are projected and
written outside the condition, for all rows at once, because a cache that a branch returned would be copied. So time is saved
where the whole batch skips a block: in small batches, under `skipdecode` and under `fixed`. Under `skipdecode` all rows have
to begin together, so that it excludes slots.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt32

from espo_jax.exits.policy import ExitPolicy, KVFill, Observation, Part
from espo_jax.exits.routes import on_route, route_length
from espo_jax.model.candidates import Candidates, no_candidates
from espo_jax.model.config import ModelConfig
from espo_jax.types import Depth

KeysValues: TypeAlias = tuple[Any, Any]


class Deciding(NamedTuple):
  """The inputs of the exit policy for tokens of a response that is being sampled."""

  position: Int[Array, 'B S']  # the token's index in the response
  noise: Float[Array, 'B S']  # one uniform per token
  live: Bool[Array, 'B S']  # False where the token's state is not needed
  level: Float[Array, '']  # the level of the exit policy
  route: UInt32[Array, 'B S R'] | None = None  # the blocks that the token's row runs through; None without a router


class Forced(NamedTuple):
  """The known depth of tokens that are being scored."""

  blocks: Int[Array, 'B S']
  free: Bool[Array, 'B S']  # False on tokens without an exit decision, such as a prompt's
  level: Float[Array, '']  # the level of the exit policy
  route: UInt32[Array, 'B S R'] | None = None  # `Depth.route` of the tokens
  keep: Float[Array, 'B S L'] | None = None  # the share of each block's change that is kept; None for a route or an exit


class Routing(NamedTuple):
  """Prompts whose streams decide which blocks their responses run through. The prompts run through all blocks."""

  segments: Int[Array, 'B S']


Reading: TypeAlias = Deciding | Forced | Routing


class Ran(NamedTuple):
  """What a block leaves behind for the exit decisions after it."""

  entered: Float[Array, 'B S D']  # the stream that entered the part of the block that may be skipped
  fresh: KeysValues  # the block's keys and values of these tokens


class Track(flax.struct.PyTreeNode):
  """The state of the exit decisions between blocks. `depth` assumes full depth for a token that has not exited yet."""

  depth: Depth
  passed: Float[Array, 'B S']  # probability, by the heads, of an exit so far
  total: Float[Array, 'B S']  # sum of the heads' probabilities so far
  due: Float[Array, 'B S']  # probability, by the policy, of an exit so far
  before: Float[Array, 'B S D']  # `Ran.entered` of the last block
  fresh: KeysValues | None  # the last block's keys and values of these tokens, where skipped blocks copy them
  keep: Float[Array, 'B S L'] | None = None  # the routers' probabilities of the blocks so far, or `Forced.keep`
  candidates: Candidates | None = None  # None where no gate reads candidates

  def past(self, ran: Ran) -> 'Track':
    """The track after a block that has run."""
    return self.replace(before=ran.entered, fresh=None if self.fresh is None else ran.fresh)


class Skip(flax.struct.PyTreeNode):
  """The inputs of a block about the tokens that skip it."""

  runs: Bool[Array, 'B S']
  needed: Bool[Array, ''] | None  # whether any live token runs; None to always run the block
  fresh: KeysValues | None  # `Track.fresh`
  fill: KVFill = flax.struct.field(pytree_node=False)
  part: Part = flax.struct.field(pytree_node=False)
  weight: Float[Array, 'B S'] | None = None  # the share of the block's change that is kept; None for all of it


def set_out(policy: ExitPolicy, reading: Reading, x: Float[Array, 'B S D'], config: ModelConfig) -> Track:
  """The track of tokens before the first block."""
  zeros = jnp.zeros(x.shape[:2], jnp.float32)
  route = None if isinstance(reading, Routing) else reading.route
  keep = jnp.ones((*x.shape[:2], config.num_layers)) if isinstance(reading, Routing) else None
  if isinstance(reading, Forced):
    blocks, keep = reading.blocks, reading.keep
  elif route is not None:
    blocks = route_length(route)
  elif isinstance(reading, Deciding) and policy.schedule is not None:
    blocks = policy.schedule(reading.position, config.num_layers, reading.level)
  else:
    blocks = jnp.full(x.shape[:2], config.num_layers, jnp.int32)
  fresh = None
  if policy.kv_fill == 'copy':
    shape = (config.num_kv_heads, *x.shape[:2], config.head_dim)
    fresh = (jnp.zeros(shape, x.dtype), jnp.zeros(shape, x.dtype))
  depth, candidates = Depth(blocks.astype(jnp.int32), zeros, route), no_candidates(zeros.shape, config)
  return Track(depth, zeros, zeros, zeros, x, fresh, keep, candidates)


def weigh(
  reading: Routing,
  track: Track,
  block: Int[Array, ''] | int,
  x: Float[Array, 'B S D'],
  head: Callable[[Float[Array, 'B S D']], Float[Array, 'B S']],
) -> Track:
  """The track after the router of `block` has read the mean stream of the prompt that each token belongs to."""
  same = reading.segments[:, :, None] == reading.segments[:, None]
  weights = same / same.sum(-1, keepdims=True)
  mean = jnp.einsum('bst,btd->bsd', weights, x.astype(jnp.float32), precision=jax.lax.Precision.HIGHEST)
  assert track.keep is not None
  return track.replace(keep=track.keep.at[..., block].set(jax.nn.sigmoid(head(mean))))


def may_leave(
  policy: ExitPolicy,
  reading: Deciding | Forced,
  track: Track,
  block: Int[Array, ''] | int,
  x: Float[Array, 'B S D'],
  logit: Float[Array, 'B S'],
  readout: Callable[[Array], Array],
  count: int,
) -> Track:
  """The track after the exit decisions before `block` of `count`, which has an exit head."""
  passed = track.passed + (1 - track.passed) * jax.nn.sigmoid(logit)
  remaining = block + policy.top  # the blocks that a token which exits here runs through
  decides = (block >= policy.earliest) & (remaining < count)
  here = decides & (track.depth.blocks >= remaining)
  due = track.due
  if isinstance(reading, Forced):
    exits, here = track.depth.blocks == remaining, here & reading.free
  else:
    candidates = None if track.candidates is None else track.candidates.tokens
    obs = Observation(logit, passed, x, track.before, readout, reading.position, track.total, candidates)
    assert policy.hazard is not None
    due = due + (1 - due) * jnp.where(decides, policy.hazard(obs, reading.level), 0.0)
    exits = due > reading.noise
  leave, stay = policy.choice(logit, reading.level)
  depth = track.depth.replace(
    blocks=jnp.where(here & exits, remaining, track.depth.blocks),
    logprobs=track.depth.logprobs + jnp.where(here, jnp.where(exits, leave, stay), 0.0),
  )
  return track.replace(depth=depth, passed=passed, total=track.total + jax.nn.sigmoid(logit), due=due)


def skip_at(
  policy: ExitPolicy, reading: Reading, track: Track, block: Int[Array, ''] | int, config: ModelConfig
) -> Skip | None:
  """The `Skip` of `block`; None where all tokens run."""
  if isinstance(reading, Routing):
    return None
  if track.keep is not None:
    return Skip(jnp.ones(track.depth.blocks.shape, bool), None, None, policy.kv_fill, policy.part, track.keep[..., block])
  if track.depth.route is None:
    runs = policy.runs(block, track.depth.blocks, config.num_layers)
  else:
    runs = on_route(track.depth.route, block)
  needed = (runs & reading.live).any() if isinstance(reading, Deciding) else None
  return Skip(runs, needed, track.fresh, policy.kv_fill, policy.part)

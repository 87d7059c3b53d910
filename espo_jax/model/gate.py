"""The gate before each block, which decides exits. It is a pure function because `nn.scan` cannot access the decoder."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from espo_jax.exits.jei_gates import gate_statistics
from espo_jax.exits.policy import ExitPolicy, certain
from espo_jax.model.candidates import candidates_at, likeliest, logits_among
from espo_jax.model.config import ModelConfig
from espo_jax.model.depth import Forced, Reading, Routing, Skip, Track, may_leave, skip_at, weigh
from espo_jax.model.exit_heads import ExitNetworks
from espo_jax.model.layers import Gate


def gate_of(
  config: ModelConfig,
  policy: ExitPolicy,
  reading: Reading,
  networks: tuple[ExitNetworks, Any],
  decoder: tuple[nn.Module, Any],
  positions: Int[Array, 'B S'],
  before: Float[Array, 'E M B K R'] | None,
) -> Gate:
  """Returns the function that decides exits before each block.

  Args:
    config: The decoder's shape.
    policy: The exit policy.
    reading: How the tokens are read.
    networks: The exits' networks and their variables.
    decoder: The decoder and its variables.
    positions: The tokens' positions.
    before: What the networks of each exit remember of the tokens before these.
  """
  blocks, every = config.exit_blocks, config.exits.every
  (heads, its), (whole, everything) = networks, decoder
  # A given depth is no question to a policy without randomness, whose choices all have the log-probability 0.
  given = isinstance(reading, Forced) and policy.choice is certain
  asks = isinstance(reading, Routing) or (policy.hazard is not None and not given)

  def ask(x: Array, track: Track, block: Array | int, head: Array | int) -> Track:
    past = None if before is None else before[head]

    def scored(stream: Array, features: Array | None) -> Any:
      return heads.apply(its, stream, head, positions, past, features, method='logit')

    if isinstance(reading, Routing):
      return weigh(reading, track, block, x, lambda stream: scored(stream, None))

    def left(stream: Array) -> Any:
      return heads.apply(its, stream, head, positions, past, method='translated')

    def readout(stream: Array) -> Any:
      return whole.apply(everything, left(stream), method='readout')

    def among(tokens: Array) -> Array:
      hidden: Any = whole.apply(everything, left(x), method='normed')
      return logits_among(config, everything['params'], hidden, tokens)

    seen, candidates = None, track.candidates
    if config.exits.kind == 'statistics':
      seen = gate_statistics(readout(x))
    elif candidates is not None:
      seen, candidates = candidates_at(candidates, head, lambda: likeliest(readout(x), config), among)
    # The policy sees the candidates from before this exit, so that the exit which proposes them cannot verify them.
    return may_leave(policy, reading, track, block, x, scored(x, seen), readout, config.num_layers).replace(
      candidates=candidates
    )

  def gate(x: Array, track: Track, block: Array | int) -> tuple[Track, Skip | None]:
    if asks and blocks and isinstance(block, int):
      track = ask(x, track, block, blocks.index(block)) if block in blocks else track
    elif asks and blocks:
      head, here = jnp.maximum((block - blocks[0]) // every, 0), (block >= blocks[0]) & (block % every == 0)
      track = jax.lax.cond(here, lambda: ask(x, track, block, head), lambda: track)
    return track, skip_at(policy, reading, track, block, config)

  return gate

"""One functional decoder for all models. It returns hidden states; logits are computed separately where they are needed."""

import dataclasses
import functools
from typing import Any, NamedTuple, TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

from espo_jax import parallel
from espo_jax.exits.policy import ExitPolicy
from espo_jax.model.attention import Shared
from espo_jax.model.cache import Cache, append
from espo_jax.model.config import ModelConfig
from espo_jax.model.depth import (
  Deciding,
  Forced,
  KeysValues,
  Ran,
  Reading,
  Routing,
  Skip,
  Track,
  set_out,
)
from espo_jax.model.exit_heads import ExitNetworks, columns_before
from espo_jax.model.gate import gate_of
from espo_jax.model.layers import Block, Following, Gate, Projection, RMSNorm, ScannedBlock, Scope, Together
from espo_jax.model.remat import recomputed
from espo_jax.model.rope import Rotation, rotation
from espo_jax.types import Depth, takes_numpy

Params: TypeAlias = PyTree[Array]

# Below this vocabulary a one-hot product beats a gather, whose gradient is a scatter (measured on a CPU: 1.3x a step).
_ONE_HOT_VOCAB = 512


class Decoder(nn.Module):
  """Maps token ids to hidden states, and has an LM head and an optional value head.

  Attributes:
    config: The decoder's shape.
    value_head: Whether there is a value head.
    exits: The exit policy, which methods use where they get `forced` or `deciding`; otherwise tokens run through all blocks.
  """

  config: ModelConfig
  value_head: bool = False
  exits: ExitPolicy | None = None

  def setup(self):
    """Declare the parameters."""
    cfg = self.config
    init = nn.with_logical_partitioning(nn.initializers.normal(cfg.hidden_size**-0.5), ('vocab', 'embed'))
    self.embedding = self.param('embedding', init, (cfg.vocab_size, cfg.hidden_size), jnp.dtype(cfg.param_dtype))
    if cfg.scan_layers:
      stack = nn.scan(
        _rematerialised(ScannedBlock, cfg),
        variable_axes={'params': 0},
        split_rngs={'params': True},
        in_axes=(0, nn.broadcast, nn.broadcast, nn.broadcast),
        length=cfg.num_layers,
        metadata_params={nn.PARTITION_NAME: 'layers'},
      )
      self.layers = stack(cfg, any(cfg.windowed), name='layers')
    else:
      block = Block if cfg.remat == 'full' else _rematerialised(Block, cfg)  # `_run` recomputes the block
      self.layers = [block(cfg, windowed, name=f'layer_{i}') for i, windowed in enumerate(cfg.windowed)]
    self.final_norm = RMSNorm(cfg, name='final_norm')
    if not cfg.tie_word_embeddings:
      self.lm_head = Projection(cfg, cfg.vocab_size, ('embed', 'vocab'), name='lm_head')
    if cfg.exit_blocks:
      self.exit_heads = ExitNetworks(cfg, name='exit_heads')
    if self.value_head:
      zeros = nn.with_logical_partitioning(nn.initializers.zeros, ('embed', 'value'))
      self.value = nn.Dense(1, kernel_init=zeros, dtype=jnp.float32, param_dtype=jnp.float32, name='value')

  def __call__(
    self,
    tokens: Int[Array, 'B S'],
    positions: Int[Array, 'B S'],
    segments: Int[Array, 'B S'],
    forced: Forced | None = None,
    prompts: Int[Array, 'B S'] | None = None,
  ) -> tuple[Float[Array, 'B S D'], tuple[Any, Any, Any], Depth | None]:
    """Hidden states after the final norm, the columns of a cache, and the tokens' depth.

    The columns are the keys and the values of every layer, and what the exits' networks remember, or None.

    Args:
      tokens: Token ids.
      positions: The tokens' positions, which RoPE reads.
      segments: The number of the sequence that each token belongs to; 0 is padding, which nothing attends to.
      forced: The depth of each token; None for full depth, in which case no depth is returned.
      prompts: The segment of the prompt that each token attends to beside its own segment; None for none.
    """
    shared = None if prompts is None else Shared(prompts, positions)
    trunk = self._trunk(tokens, positions, Together(segments, shared), None, forced)
    if self.is_initializing():
      self.logits(trunk.x), self.values(trunk.x)
      if self.config.exit_blocks:
        self.exit_heads.translated(trunk.x, 0, positions, None)
    remembers = self.config.exits.memories and not self.is_initializing()
    heads = self.exit_heads.memories(trunk.entered, positions, None) if remembers else None
    return trunk.x, (*trunk.kv, heads), None if trunk.track is None else trunk.track.depth

  def entering(
    self, tokens: Int[Array, 'B S'], positions: Int[Array, 'B S'], segments: Int[Array, 'B S']
  ) -> tuple[Float[Array, 'B S D'], Float[Array, 'E B S D']]:
    """One pass at full depth: its hidden states, and the residual stream that enters each exit block.

    Args:
      tokens: Token ids.
      positions: The tokens' positions, which RoPE reads.
      segments: The number of the sequence that each token belongs to; 0 is padding, which nothing attends to.
    """
    trunk = self._trunk(tokens, positions, Together(segments), None, None)
    return trunk.x, jnp.stack([trunk.entered[block] for block in self.config.exit_blocks])

  def leaving(self, streams: Float[Array, 'E B S D'], positions: Int[Array, 'B S']) -> Float[Array, 'E B S D']:
    """The hidden states of an exit at each exit block, from the streams that enter these blocks in a whole pass."""
    left = [self.exit_heads.translated(stream, head, positions, None) for head, stream in enumerate(streams)]
    return self.final_norm(jnp.stack(left))

  def gates(
    self, streams: Float[Array, 'E B S D'], positions: Int[Array, 'B S'], seen: Float[Array, 'E B S F'] | None = None
  ) -> Float[Array, 'E B S']:
    """The logits of the exits' gates, from the streams that enter their blocks in a whole pass.

    Args:
      streams: The streams.
      positions: The tokens' positions.
      seen: What gates read of the exits' logits, where they read logits and no streams.
    """
    each = [None] * len(streams) if seen is None else seen
    return jnp.stack(
      [self.exit_heads.logit(x, head, positions, None, its) for head, (x, its) in enumerate(zip(streams, each, strict=True))]
    )

  def routing(
    self, tokens: Int[Array, 'B S'], positions: Int[Array, 'B S'], segments: Int[Array, 'B S']
  ) -> tuple[Float[Array, 'B S D'], tuple[Any, Any, None], Float[Array, 'B S L']]:
    """Hidden states and cache columns of prompts, and the probability, by the routers, that a response keeps each block.

    Args:
      tokens: Token ids.
      positions: The tokens' positions, which RoPE reads.
      segments: The number of the sequence that each token belongs to; 0 is padding, which nothing attends to.
    """
    trunk = self._trunk(tokens, positions, Together(segments), None, Routing(segments))
    assert trunk.track is not None and trunk.track.keep is not None
    return trunk.x, (*trunk.kv, None), trunk.track.keep

  def extend(
    self,
    tokens: Int[Array, 'B S'],
    counts: Int[Array, 'B'],
    cache: Cache,
    longest: Int[Array, ''],
    deciding: Deciding | None = None,
  ) -> tuple[Float[Array, 'B S D'], Cache, Depth | None]:
    """Hidden states of new tokens after those in the cache, the cache with the new tokens, and their depth.

    Args:
      tokens: The new tokens of each row.
      counts: The number of new tokens that each row keeps; the others are treated like padding.
      cache: The cache of the previous tokens.
      longest: The most tokens of any live row, including the new ones.
      deciding: The inputs of the exit policy; None for full depth.
    """
    positions = cache.lengths[:, None] + jnp.arange(tokens.shape[1])
    before, heads = columns_before(cache, self.config), cache.heads
    scope = Following(cache.lengths, longest)
    trunk = self._trunk(tokens, positions, scope, (cache.keys, cache.values), deciding, before)
    depth = None if trunk.track is None else trunk.track.depth
    if heads is not None and deciding is not None:
      heads = append(heads, self.exit_heads.memories(trunk.entered, positions, before), cache.lengths, None)
    return trunk.x, Cache(*trunk.kv, cache.lengths + counts, heads), depth

  def draft(
    self, tokens: Int[Array, 'B S'], cache: Cache, longest: Int[Array, ''], blocks: int
  ) -> tuple[Float[Array, 'B S D'], Cache]:
    """Run new tokens through the first `blocks` blocks; return their residual stream and the cache with the new tokens.

    `verify` writes the columns of the other blocks. Layers must be unrolled.

    Args:
      tokens: The new tokens of each row.
      cache: The cache of the previous tokens.
      longest: The most tokens of any live row, including the new ones.
      blocks: The number of blocks that run.
    """
    x, cache = self._some(self._embed(tokens), cache, longest, range(blocks))
    return x, cache.replace(lengths=cache.lengths + tokens.shape[1])

  def verify(
    self, stream: Float[Array, 'B S D'], cache: Cache, longest: Int[Array, ''], blocks: int
  ) -> tuple[Float[Array, 'B S D'], Cache]:
    """Run drafted tokens through the remaining blocks; return their hidden states and the completed cache.

    Args:
      stream: The residual stream that `draft` returned for the tokens.
      cache: The cache with the tokens in its first blocks. Its lengths exclude the tokens and do not change.
      longest: The most tokens of any live row, including the new ones.
      blocks: The number of blocks that have run.
    """
    x, cache = self._some(stream, cache, longest, range(blocks, self.config.num_layers))
    return self.final_norm(x), cache

  def _some(self, x: Array, cache: Cache, longest: Array, blocks: range) -> tuple[Array, Cache]:
    turn = rotation(self.config, cache.lengths[:, None] + jnp.arange(x.shape[1]))
    keys, values = list(cache.keys), list(cache.values)
    for i in blocks:
      x, (keys[i], values[i]), _ = self.layers[i](x, turn, Following(cache.lengths, longest), (keys[i], values[i]))
    return x, cache.replace(keys=tuple(keys), values=tuple(values))

  def _trunk(
    self,
    tokens: Int[Array, 'B S'],
    positions: Int[Array, 'B S'],
    scope: Scope,
    cached: KeysValues | None,
    reading: Reading | None,
    before: Float[Array, 'E M B K R'] | None = None,
  ) -> '_Trunk':
    x, turn = parallel.constrain(self._embed(tokens), 'batch', None, None), rotation(self.config, positions)
    gate, track = None, None
    if reading is not None:
      gate, track = self._gate(reading, positions, before), set_out(self._policy, reading, x, self.config)
    if self.config.scan_layers:
      numbers = jnp.arange(self.config.num_layers, dtype=jnp.int32)  # as depths have
      (x, carried, track), (put_out, entered) = self.layers((x, cached, track), numbers, turn, scope, gate)
      x = self._translated(x, track, entered, positions, before)
      return _Trunk(self.final_norm(x), put_out if cached is None else carried, track, entered)
    per_layer, entered, skip = [], [], None
    for i, layer in enumerate(self.layers):
      entered.append(x)
      if gate is not None and track is not None:
        track, skip = gate(x, track, i)
      x, kv, ran = self._run(layer, x, turn, scope, None if cached is None else (cached[0][i], cached[1][i]), skip)
      if track is not None:
        track = track.past(ran)
      per_layer.append(kv)
    keys, values = zip(*per_layer, strict=True)
    x = self._translated(x, track, entered, positions, before)
    return _Trunk(self.final_norm(x), (keys, values), track, entered)

  def _translated(
    self, x: Array, track: Track | None, entered: Any, positions: Array, before: Array | None
  ) -> Float[Array, 'B S D']:
    """The streams after the last block, of which those of tokens that have left at an exit are translated."""
    if track is None or self.config.exits.translator == 'none' or not self._policy.leaves:
      return x
    return self.exit_heads.translated_where_left(x, track.depth.blocks, entered, positions, before)

  def _run(
    self, layer: Block, x: Float[Array, 'B S D'], turn: Rotation, scope: Scope, cached: KeysValues | None, skip: Skip | None
  ) -> tuple[Float[Array, 'B S D'], KeysValues, Ran]:
    """Run a layer of its own."""
    if self.config.remat != 'full' or self.is_initializing():
      return layer(x, turn, scope, cached, skip=skip)
    block, variables = layer.unbind()

    def run(x: Array, variables: Any, turn: Rotation, scope: Scope, cached: KeysValues | None, skip: Skip | None) -> Any:
      return block.apply(variables, x, turn, scope, cached, skip=skip)

    return recomputed(run)(x, variables, turn, scope, cached, skip)

  @property
  def _policy(self) -> ExitPolicy:
    assert self.exits is not None
    return self.exits

  def _gate(self, reading: Reading, positions: Array, before: Array | None) -> Gate:
    heads = self.exit_heads.unbind() if self.config.exit_blocks else (ExitNetworks(self.config, parent=None), {})
    return gate_of(self.config, self._policy, reading, heads, self.unbind(), positions, before)

  def readout(self, stream: Float[Array, '... D'], blocks: int | None = None) -> Float[Array, '... V']:
    """The logits of a residual stream without further blocks.

    Args:
      stream: The stream.
      blocks: The number of blocks that the stream comes from, where the translator of an exit there corrects it, unless that
        translator remembers tokens; None for no correction.
    """
    exits = self.config.exit_blocks
    if blocks is not None and blocks in exits and self.config.exits.translator == 'token':
      tokens = stream.reshape(1, -1, stream.shape[-1])
      left = self.exit_heads.translated(tokens, exits.index(blocks), jnp.zeros(tokens.shape[:2], jnp.int32), None)
      stream = left.reshape(stream.shape)
    return self.logits(self.final_norm(stream))

  def normed(self, stream: Float[Array, '... D']) -> Float[Array, '... D']:
    """The hidden states that a residual stream is read from."""
    return self.final_norm(stream)

  def _embed(self, tokens: Int[Array, 'B S']) -> Float[Array, 'B S D']:
    table = self.embedding.astype(self.config.activation_dtype)
    if self.config.vocab_size <= _ONE_HOT_VOCAB:
      return jax.nn.one_hot(tokens, self.config.vocab_size, dtype=table.dtype) @ table
    return table[tokens]

  def logits(self, hidden: Float[Array, '... D']) -> Float[Array, '... V']:
    """Next-token logits in float32."""
    if self.config.tie_word_embeddings:
      table = self.embedding.astype(self.config.activation_dtype)
      return jnp.einsum('...d,vd->...v', hidden, table, preferred_element_type=jnp.float32)
    return self.lm_head(hidden).astype(jnp.float32)

  def values(self, hidden: Float[Array, '... D']) -> Float[Array, '...']:
    """State values in float32; zeros where the model has no value head."""
    if not self.value_head:
      return jnp.zeros(hidden.shape[:-1], jnp.float32)
    return self.value(hidden.astype(jnp.float32))[..., 0]


class _Trunk(NamedTuple):
  """The outputs of all blocks."""

  x: Float[Array, 'B S D']  # after the final norm
  kv: KeysValues
  track: Track | None
  entered: Any  # the streams that entered the blocks, by block


def _rematerialised(block: type[Block], config: ModelConfig) -> type[Block]:
  """The block class, rematerialised as `config.remat` says."""
  if config.remat == 'none':
    return block
  kept = {'full': None, 'dots': jax.checkpoint_policies.dots_with_no_batch_dims_saveable}[config.remat]
  gate = (5,) if issubclass(block, ScannedBlock) else ()  # `gate` is a function, so it is a static argument
  return nn.remat(block, policy=kept, prevent_cse=not config.scan_layers, static_argnums=gate)


def init_boxed(config: ModelConfig, key: PRNGKeyArray, *, value_head: bool = False) -> PyTree:
  """Random parameters, each in a box that names its logical axes."""
  tokens = jnp.zeros((1, 2), jnp.int32)
  config = dataclasses.replace(config, attention='chunked')  # no parameter depends on the form
  return Decoder(config, value_head).init(key, tokens, tokens, jnp.ones((1, 2), jnp.int32))['params']


@functools.partial(jax.jit, static_argnames=('config', 'value_head'))
def init(config: ModelConfig, key: PRNGKeyArray, *, value_head: bool = False) -> Params:
  """Random parameters."""
  return nn.unbox(init_boxed(config, key, value_head=value_head))


@takes_numpy
def apply(
  config: ModelConfig,
  params: Params,
  tokens: Int[Array, 'B T'],
  positions: Int[Array, 'B T'] | None = None,
  valid: Bool[Array, 'B T'] | None = None,
) -> Float[Array, 'B T V']:
  """Teacher-forced next-token logits.

  Args:
    config: The decoder's shape.
    params: The decoder's parameters.
    tokens: Token ids.
    positions: The RoPE positions; 0, 1, 2, ... by default.
    valid: False on padding, which no token attends to; all true by default.

  Returns:
    Float32 logits. Those at index `t` predict token `t + 1`.
  """
  if positions is None:
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
  if valid is None:
    valid = jnp.ones(tokens.shape, bool)
  decoder = Decoder(config)
  hidden: Any = decoder.apply({'params': params}, tokens, positions, valid.astype(jnp.int32))[0]
  logits: Any = decoder.apply({'params': params}, hidden, method='logits')
  return logits

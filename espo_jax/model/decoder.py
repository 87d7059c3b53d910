"""One functional decoder for every model: hidden states first, logits only where someone asks for them."""

import functools
from typing import Any, TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

from espo_jax.model.cache import Cache
from espo_jax.model.config import ModelConfig
from espo_jax.model.layers import Block, Following, KeysValues, Projection, RMSNorm, ScannedBlock, Scope, Together
from espo_jax.model.rope import rotation

Params: TypeAlias = PyTree[Array]

# Below this vocabulary a one-hot product beats a gather, whose gradient is a scatter (measured on a CPU: 1.3x a step).
_ONE_HOT_VOCAB = 512


class Decoder(nn.Module):
  """Token ids to hidden states, with an LM head and, for critics, a value head beside it."""

  config: ModelConfig
  value_head: bool = False

  def setup(self):
    """Declare the parameters."""
    cfg = self.config
    init = nn.with_logical_partitioning(nn.initializers.normal(cfg.hidden_size**-0.5), ('vocab', 'embed'))
    self.embedding = self.param('embedding', init, (cfg.vocab_size, cfg.hidden_size), jnp.dtype(cfg.param_dtype))
    if cfg.scan_layers:
      stack = nn.scan(
        ScannedBlock,
        variable_axes={'params': 0},
        split_rngs={'params': True},
        in_axes=(0, nn.broadcast, nn.broadcast),
        length=cfg.num_layers,
        metadata_params={nn.PARTITION_NAME: 'layers'},
      )
      self.layers = stack(cfg, any(cfg.windowed), name='layers')
    else:
      self.layers = [Block(cfg, windowed, name=f'layer_{i}') for i, windowed in enumerate(cfg.windowed)]
    self.final_norm = RMSNorm(cfg, name='final_norm')
    if not cfg.tie_word_embeddings:
      self.lm_head = Projection(cfg, cfg.vocab_size, ('embed', 'vocab'), name='lm_head')
    if self.value_head:
      zeros = nn.with_logical_partitioning(nn.initializers.zeros, ('embed', 'value'))
      self.value = nn.Dense(1, kernel_init=zeros, dtype=jnp.float32, param_dtype=jnp.float32, name='value')

  def __call__(
    self, tokens: Int[Array, 'B S'], positions: Int[Array, 'B S'], segments: Int[Array, 'B S']
  ) -> tuple[Float[Array, 'B S D'], KeysValues]:
    """Hidden states after the final norm, and every layer's keys and values.

    Args:
      tokens: Token ids.
      positions: For RoPE.
      segments: Which sequence each token belongs to; 0 is padding, which nothing attends to.
    """
    x, kv = self._trunk(tokens, positions, Together(segments), None)
    if self.is_initializing():
      self.logits(x), self.values(x)
    return x, kv

  def extend(
    self, tokens: Int[Array, 'B S'], counts: Int[Array, 'B'], cache: Cache, longest: Int[Array, '']
  ) -> tuple[Float[Array, 'B S D'], Cache]:
    """Hidden states of tokens that follow those in the cache, and the cache with them.

    Args:
      tokens: The new tokens of each row.
      counts: How many of them the row keeps; what follows them is as good as padding.
      cache: What came before.
      longest: No row that counts has more tokens than this, the new ones included.
    """
    positions = cache.lengths[:, None] + jnp.arange(tokens.shape[1])
    x, (keys, values) = self._trunk(tokens, positions, Following(cache.lengths, longest), (cache.keys, cache.values))
    return x, Cache(keys, values, cache.lengths + counts)

  def _trunk(
    self, tokens: Int[Array, 'B S'], positions: Int[Array, 'B S'], scope: Scope, cached: KeysValues | None
  ) -> tuple[Float[Array, 'B S D'], KeysValues]:
    x, turn = self._embed(tokens), rotation(self.config, positions)
    if self.config.scan_layers:
      (x, carried), put_out = self.layers((x, cached), jnp.arange(self.config.num_layers), turn, scope)
      return self.final_norm(x), put_out if cached is None else carried
    per_layer = []
    for i, layer in enumerate(self.layers):
      x, kv = layer(x, turn, scope, None if cached is None else (cached[0][i], cached[1][i]))
      per_layer.append(kv)
    keys, values = zip(*per_layer, strict=True)
    return self.final_norm(x), (keys, values)

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


def init_boxed(config: ModelConfig, key: PRNGKeyArray, *, value_head: bool = False) -> PyTree:
  """Random parameters, each in a box that names its logical axes."""
  tokens = jnp.zeros((1, 2), jnp.int32)
  return Decoder(config, value_head).init(key, tokens, tokens, jnp.ones((1, 2), jnp.int32))['params']


@functools.partial(jax.jit, static_argnames=('config', 'value_head'))
def init(config: ModelConfig, key: PRNGKeyArray, *, value_head: bool = False) -> Params:
  """Random parameters."""
  return nn.unbox(init_boxed(config, key, value_head=value_head))


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
    params: Its parameters.
    tokens: Token ids.
    positions: RoPE positions; by default 0, 1, 2, ...
    valid: False on padding, which no token attends to; by default everything is a token.

  Returns:
    Float32 logits; those at index `t` predict token `t + 1`.
  """
  if positions is None:
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
  if valid is None:
    valid = jnp.ones(tokens.shape, bool)
  decoder = Decoder(config)
  hidden: Any = decoder.apply({'params': params}, tokens, positions, valid.astype(jnp.int32))[0]
  logits: Any = decoder.apply({'params': params}, hidden, method='logits')
  return logits

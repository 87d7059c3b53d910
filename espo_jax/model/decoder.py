"""One functional decoder for every model: hidden states first, logits only where someone asks for them."""

import functools
from typing import Any, TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

from espo_jax.model.cache import Cache
from espo_jax.model.config import ModelConfig
from espo_jax.model.layers import Block, Projection, RMSNorm
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
        Block,
        variable_axes={'params': 0},
        split_rngs={'params': True},
        in_axes=(0, nn.broadcast, nn.broadcast, nn.broadcast),
        length=cfg.num_layers,
        metadata_params={nn.PARTITION_NAME: 'layers'},
      )
      self.layers = stack(cfg, name='layers')
    else:
      self.layers = [Block(cfg, name=f'layer_{i}') for i in range(cfg.num_layers)]
    self.final_norm = RMSNorm(cfg, name='final_norm')
    if not cfg.tie_word_embeddings:
      self.lm_head = Projection(cfg, cfg.vocab_size, ('embed', 'vocab'), name='lm_head')
    if self.value_head:
      zeros = nn.with_logical_partitioning(nn.initializers.zeros, ('embed', 'value'))
      self.value = nn.Dense(1, kernel_init=zeros, dtype=jnp.float32, param_dtype=jnp.float32, name='value')

  def __call__(
    self,
    tokens: Int[Array, 'B S'],
    positions: Int[Array, 'B S'],
    valid: Bool[Array, 'B S'],
    cache: Cache | None = None,
  ) -> tuple[Float[Array, 'B S D'], Cache | None]:
    """Hidden states after the final norm; with a cache, the tokens are appended to it first."""
    cfg = self.config
    length = tokens.shape[1]
    x = self._embed(tokens)
    column: Int[Array, ''] | int = 0 if cache is None else cache.column
    layer_kv: Any = None if cache is None else (cache.keys, cache.values)
    if cache is not None:
      valid = jax.lax.dynamic_update_slice_in_dim(cache.valid, valid, column, axis=1)
    age = column + jnp.arange(length)[:, None] - jnp.arange(valid.shape[1])  # of a key as a query sees it, in columns
    mask = (age >= 0) & valid[:, None, :]
    window = mask & (age < cfg.sliding_window)
    turn = rotation(cfg, positions)
    if cfg.scan_layers:
      x, layer_kv = self.layers(x, layer_kv, turn, window if any(cfg.windowed) else mask, column)
    else:
      per_layer = []
      for i, layer in enumerate(self.layers):
        cached = None if layer_kv is None else (layer_kv[0][i], layer_kv[1][i])
        x, kv = layer(x, cached, turn, window if cfg.windowed[i] else mask, column)
        per_layer.append(kv)
      layer_kv = tuple(zip(*per_layer, strict=True))
    if cache is not None:
      cache = Cache(keys=layer_kv[0], values=layer_kv[1], valid=valid, column=cache.column + length)
    if self.is_initializing():
      self.logits(x), self.values(x)
    return self.final_norm(x), cache

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
  return Decoder(config, value_head).init(key, tokens, tokens, jnp.ones((1, 2), bool))['params']


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
  hidden: Any = decoder.apply({'params': params}, tokens, positions, valid)[0]
  logits: Any = decoder.apply({'params': params}, hidden, method='logits')
  return logits

"""The decoder's parts. Kernels name logical axes; `espo_jax.parallel.sharding` maps them to a mesh."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from espo_jax.model.attention import cached_attention, self_attention
from espo_jax.model.cache import append
from espo_jax.model.config import ModelConfig
from espo_jax.model.rope import Rotation, rotate

KeysValues: TypeAlias = tuple[Any, Any]


def _kernel(scale: float, *axes: str) -> Callable[..., Any]:
  return nn.with_logical_partitioning(nn.initializers.variance_scaling(scale, 'fan_in', 'normal'), axes)


class Projection(nn.Module):
  """A linear map whose kernel carries logical axes, with a low-rank adapter beside it where the config asks for one.

  Attributes:
    config: The decoder's shape.
    features: Of the output.
    axes: The kernel's logical axes.
    use_bias: Whether there is a bias.
    scale: The output's variance at the start.
  """

  config: ModelConfig
  features: int
  axes: tuple[str, str]
  use_bias: bool = False
  scale: float = 1.0

  @nn.compact
  def __call__(self, x: Float[Array, '... D']) -> Float[Array, '... F']:
    """`x W + b + alpha / rank * (x A) B`; the adapter starts at zero, for `B` does."""
    cfg, dtype = self.config, self.config.activation_dtype
    param_dtype = jnp.dtype(cfg.param_dtype)
    kernel: Any = self.param('kernel', _kernel(self.scale, *self.axes), (x.shape[-1], self.features), param_dtype)
    y = x @ kernel.astype(dtype)
    if self.use_bias:
      zeros = nn.with_logical_partitioning(nn.initializers.zeros, self.axes[1:])
      bias: Any = self.param('bias', zeros, (self.features,), param_dtype)
      y += bias.astype(dtype)
    if cfg.lora.rank and self.name in cfg.lora.targets:
      zeros = nn.with_logical_partitioning(nn.initializers.zeros, ('lora', self.axes[1]))
      a: Any = self.param('lora_a', _kernel(1.0, self.axes[0], 'lora'), (x.shape[-1], cfg.lora.rank), jnp.float32)
      b: Any = self.param('lora_b', zeros, (cfg.lora.rank, self.features), jnp.float32)
      y += (x @ a.astype(dtype)) @ b.astype(dtype) * (cfg.lora.alpha / cfg.lora.rank)
    return y


def _branch(config: ModelConfig) -> float:
  """The first variance of a residual branch: all branches together weigh as much as the embedding."""
  return 1.0 / (2 * config.num_layers * config.hidden_size)


class RMSNorm(nn.Module):
  """Root-mean-square normalisation, computed in float32."""

  config: ModelConfig

  @nn.compact
  def __call__(self, x: Float[Array, '... D']) -> Float[Array, '... D']:
    """Scale `x` to unit root mean square, then by a learned vector."""
    init = nn.with_logical_partitioning(nn.initializers.ones, ('norm',))
    scale: Any = self.param('scale', init, (x.shape[-1],), jnp.dtype(self.config.param_dtype))
    x32 = x.astype(jnp.float32)
    x32 = x32 * jax.lax.rsqrt(jnp.mean(x32 * x32, axis=-1, keepdims=True) + self.config.rms_norm_eps)
    return (x32 * scale.astype(jnp.float32)).astype(x.dtype)


class Together(NamedTuple):
  """Whole sequences: tokens look at each other within their segments."""

  segments: Int[Array, 'B S']


class Following(NamedTuple):
  """The newest tokens of rows whose others are in a cache, at which they look too."""

  lengths: Int[Array, 'B']  # of the cache's rows, before these tokens
  longest: Int[Array, '']  # of the rows that count, with these tokens


Scope: TypeAlias = Together | Following


class Attention(nn.Module):
  """Self-attention over the tokens given, or over a cache that their keys and values are first written to."""

  config: ModelConfig
  windowed: bool

  @nn.compact
  def __call__(
    self, x: Float[Array, 'B S D'], turn: Rotation, scope: Scope, cached: KeysValues | None, layer: Int[Array, ''] | None
  ) -> tuple[Float[Array, 'B S D'], KeysValues]:
    """Return the attended states, and the keys and values: those of `x`, or the cache with them in it."""
    cfg = self.config
    batch, length, _ = x.shape

    def heads(name: str, count: int, axis: str) -> Array:
      flat = Projection(cfg, count * cfg.head_dim, ('embed', axis), cfg.qkv_bias, name=f'{name}_proj')(x)
      split = flat.reshape(batch, length, count, cfg.head_dim)
      return RMSNorm(cfg, name=f'{name}_norm')(split) if cfg.qk_norm and name != 'v' else split

    queries = rotate(heads('q', cfg.num_heads, 'heads'), turn)
    keys = rotate(heads('k', cfg.num_kv_heads, 'kv_heads'), turn)
    values = heads('v', cfg.num_kv_heads, 'kv_heads')
    keys, values = keys.transpose(2, 0, 1, 3), values.transpose(2, 0, 1, 3)
    window = cfg.sliding_window if self.windowed else 0
    if isinstance(scope, Together):
      out = self_attention(queries, keys, values, scope.segments, window)
    else:
      assert cached is not None
      keys, values = (append(side, new, scope.lengths, layer) for side, new in zip(cached, (keys, values), strict=True))
      own = (keys, values) if layer is None else (keys[layer], values[layer])
      out = cached_attention(queries, *own, scope.lengths, scope.longest, window, cfg.paged_kernels)
    out = out.reshape(batch, length, cfg.num_heads * cfg.head_dim)
    project = Projection(cfg, cfg.hidden_size, ('heads', 'embed'), cfg.out_bias, _branch(cfg), name='o_proj')
    return project(out), (keys, values)


class MLP(nn.Module):
  """SwiGLU (Shazeer 2020)."""

  config: ModelConfig

  @nn.compact
  def __call__(self, x: Float[Array, 'B S D']) -> Float[Array, 'B S D']:
    """`down(silu(gate(x)) * up(x))`."""
    cfg = self.config
    gate = Projection(cfg, cfg.intermediate_size, ('embed', 'mlp'), cfg.mlp_bias, name='gate_proj')(x)
    up = Projection(cfg, cfg.intermediate_size, ('embed', 'mlp'), cfg.mlp_bias, name='up_proj')(x)
    down = Projection(cfg, cfg.hidden_size, ('mlp', 'embed'), cfg.mlp_bias, _branch(cfg), name='down_proj')
    return down(nn.silu(gate) * up)


class Block(nn.Module):
  """One pre-norm decoder layer."""

  config: ModelConfig
  windowed: bool

  def setup(self):
    """Declare the parts."""
    self.attention_norm = RMSNorm(self.config)
    self.attention = Attention(self.config, self.windowed)
    self.mlp_norm = RMSNorm(self.config)
    self.mlp = MLP(self.config)

  def __call__(
    self, x: Float[Array, 'B S D'], turn: Rotation, scope: Scope, cached: KeysValues | None, layer: Int[Array, ''] | None = None
  ) -> tuple[Float[Array, 'B S D'], KeysValues]:
    """Return the new residual stream and the layer's keys and values, as `Attention` does."""
    attended, kv = self.attention(self.attention_norm(x), turn, scope, cached, layer)
    x = x + attended
    return x + self.mlp(self.mlp_norm(x)), kv


class ScannedBlock(Block):
  """A `Block` in the form that `nn.scan` asks for. A cache is carried, not scanned over, so that it is written in place."""

  def __call__(  # type: ignore[override]
    self, carry: tuple[Array, KeysValues | None], layer: Int[Array, ''], turn: Rotation, scope: Scope
  ) -> tuple[tuple[Array, KeysValues | None], KeysValues | None]:
    """Carry the stream and the stacked cache through layer `layer`; without a cache, put out the layer's keys and values."""
    x, cached = carry
    x, kv = Block.__call__(self, x, turn, scope, cached, layer)
    return ((x, None), kv) if cached is None else ((x, kv), None)

"""The decoder's parts. Kernels name logical axes; `espo_jax.parallel.sharding` maps them to a mesh."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from espo_jax.model.config import ModelConfig
from espo_jax.model.rope import Rotation, rotate

_MASKED = -1e30  # the score of a hidden key: finite, so that a row of padding gives no nan


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


def attend(
  queries: Float[Array, 'B S H K'],
  keys: Float[Array, 'B J C K'],
  values: Float[Array, 'B J C K'],
  mask: Bool[Array, 'B S C'],
) -> Float[Array, 'B S H K']:
  """Grouped-query attention with a float32 softmax; query head `h` reads key-value head `h // (H / J)`."""
  batch, length, heads, head_dim = queries.shape
  groups = keys.shape[1]
  grouped = queries.reshape(batch, length, groups, heads // groups, head_dim)
  scores = jnp.einsum('bsjgk,bjck->bjgsc', grouped, keys, preferred_element_type=jnp.float32) * head_dim**-0.5
  weights = jax.nn.softmax(jnp.where(mask[:, None, None], scores, _MASKED), axis=-1).astype(values.dtype)
  return jnp.einsum('bjgsc,bjck->bsjgk', weights, values).reshape(batch, length, heads, head_dim)


class Attention(nn.Module):
  """Self-attention over the tokens given, or over a cache that the new keys and values are first written to."""

  config: ModelConfig

  @nn.compact
  def __call__(
    self,
    x: Float[Array, 'B S D'],
    turn: Rotation,
    mask: Bool[Array, 'B S C'],
    cached: tuple[Array, Array] | None,
    column: Int[Array, ''] | int,
  ) -> tuple[Float[Array, 'B S D'], tuple[Array, Array]]:
    """Return the attended states and the keys and values, `[B, J, C, K]` each, including those of `x`."""
    cfg = self.config
    batch, length, _ = x.shape

    def heads(name: str, count: int, axis: str) -> Array:
      flat = Projection(cfg, count * cfg.head_dim, ('embed', axis), cfg.qkv_bias, name=f'{name}_proj')(x)
      split = flat.reshape(batch, length, count, cfg.head_dim)
      return RMSNorm(cfg, name=f'{name}_norm')(split) if cfg.qk_norm and name != 'v' else split

    queries = rotate(heads('q', cfg.num_heads, 'heads'), turn)
    keys = rotate(heads('k', cfg.num_kv_heads, 'kv_heads'), turn)
    values = heads('v', cfg.num_kv_heads, 'kv_heads')
    keys, values = keys.swapaxes(1, 2), values.swapaxes(1, 2)  # the products batch over rows and heads
    if cached is not None:
      keys = jax.lax.dynamic_update_slice_in_dim(cached[0], keys, column, axis=2)
      values = jax.lax.dynamic_update_slice_in_dim(cached[1], values, column, axis=2)
    out = attend(queries, keys, values, mask).reshape(batch, length, cfg.num_heads * cfg.head_dim)
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
  """One pre-norm decoder layer. Its call has the carry-and-output form that `nn.scan` asks for."""

  config: ModelConfig

  @nn.compact
  def __call__(
    self,
    x: Float[Array, 'B S D'],
    cached: tuple[Array, Array] | None,
    turn: Rotation,
    mask: Bool[Array, 'B S C'],
    column: Int[Array, ''] | int,
  ) -> tuple[Float[Array, 'B S D'], tuple[Array, Array]]:
    """Return the new residual stream and this layer's keys and values."""
    attended, kv = Attention(self.config, name='attention')(
      RMSNorm(self.config, name='attention_norm')(x), turn, mask, cached, column
    )
    x = x + attended
    return x + MLP(self.config, name='mlp')(RMSNorm(self.config, name='mlp_norm')(x)), kv

"""The decoder's parts. Kernels name logical axes; `espo_jax.parallel.sharding` maps them to a mesh."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from espo_jax.model.config import ModelConfig

_MASKED = -1e30  # the score of a hidden key: finite, so that a row of padding gives no nan


def _kernel(scale: float, *axes: str) -> Callable[..., Any]:
  return nn.with_logical_partitioning(nn.initializers.variance_scaling(scale, 'fan_in', 'normal'), axes)


def dense(config: ModelConfig, features: int, axes: tuple[str, str], name: str, *, scale: float = 1.0) -> nn.Dense:
  """A bias-free projection whose kernel carries the logical `axes`; `scale` is its output's variance at the start."""
  return nn.Dense(
    features,
    use_bias=False,
    dtype=config.activation_dtype,
    param_dtype=jnp.dtype(config.param_dtype),
    kernel_init=_kernel(scale, *axes),
    name=name,
  )


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


def rope(x: Float[Array, 'B S H K'], positions: Int[Array, 'B S'], theta: float) -> Float[Array, 'B S H K']:
  """Rotary position embedding, rotating channel `i` with channel `i + K / 2` (Su et al. 2021, the half-split layout)."""
  half = x.shape[-1] // 2
  frequency = theta ** (-jnp.arange(half, dtype=jnp.float32) / half)
  angle = positions[..., None].astype(jnp.float32) * frequency
  sin, cos = jnp.sin(angle)[:, :, None, :], jnp.cos(angle)[:, :, None, :]
  x1, x2 = x[..., :half].astype(jnp.float32), x[..., half:].astype(jnp.float32)
  return jnp.concatenate([x1 * cos - x2 * sin, x2 * cos + x1 * sin], axis=-1).astype(x.dtype)


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
    positions: Int[Array, 'B S'],
    mask: Bool[Array, 'B S C'],
    cached: tuple[Array, Array] | None,
    column: Int[Array, ''] | int,
  ) -> tuple[Float[Array, 'B S D'], tuple[Array, Array]]:
    """Return the attended states and the keys and values, `[B, J, C, K]` each, including those of `x`."""
    cfg = self.config
    batch, length, _ = x.shape

    def heads(name: str, count: int, axis: str) -> Array:
      flat = dense(cfg, count * cfg.head_dim, ('embed', axis), name)(x)
      return flat.reshape(batch, length, count, cfg.head_dim)

    queries = rope(heads('q_proj', cfg.num_heads, 'heads'), positions, cfg.rope_theta)
    keys = rope(heads('k_proj', cfg.num_kv_heads, 'kv_heads'), positions, cfg.rope_theta)
    values = heads('v_proj', cfg.num_kv_heads, 'kv_heads')
    keys, values = keys.swapaxes(1, 2), values.swapaxes(1, 2)  # the products batch over rows and heads
    if cached is not None:
      keys = jax.lax.dynamic_update_slice_in_dim(cached[0], keys, column, axis=2)
      values = jax.lax.dynamic_update_slice_in_dim(cached[1], values, column, axis=2)
    out = attend(queries, keys, values, mask).reshape(batch, length, cfg.num_heads * cfg.head_dim)
    return dense(cfg, cfg.hidden_size, ('heads', 'embed'), 'o_proj', scale=_branch(cfg))(out), (keys, values)


class MLP(nn.Module):
  """SwiGLU (Shazeer 2020)."""

  config: ModelConfig

  @nn.compact
  def __call__(self, x: Float[Array, 'B S D']) -> Float[Array, 'B S D']:
    """`down(silu(gate(x)) * up(x))`."""
    cfg = self.config
    gate = dense(cfg, cfg.intermediate_size, ('embed', 'mlp'), 'gate_proj')(x)
    up = dense(cfg, cfg.intermediate_size, ('embed', 'mlp'), 'up_proj')(x)
    return dense(cfg, cfg.hidden_size, ('mlp', 'embed'), 'down_proj', scale=_branch(cfg))(nn.silu(gate) * up)


class Block(nn.Module):
  """One pre-norm decoder layer. Its call has the carry-and-output form that `nn.scan` asks for."""

  config: ModelConfig

  @nn.compact
  def __call__(
    self,
    x: Float[Array, 'B S D'],
    cached: tuple[Array, Array] | None,
    positions: Int[Array, 'B S'],
    mask: Bool[Array, 'B S C'],
    column: Int[Array, ''] | int,
  ) -> tuple[Float[Array, 'B S D'], tuple[Array, Array]]:
    """Return the new residual stream and this layer's keys and values."""
    attended, kv = Attention(self.config, name='attention')(
      RMSNorm(self.config, name='attention_norm')(x), positions, mask, cached, column
    )
    x = x + attended
    return x + MLP(self.config, name='mlp')(RMSNorm(self.config, name='mlp_norm')(x)), kv

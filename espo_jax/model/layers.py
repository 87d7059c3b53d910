"""The modules of the decoder. Kernels name logical axes, which the table in `espo_jax.parallel.mesh` maps to a mesh."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from espo_jax import parallel
from espo_jax.model.attention import Shared, cached_attention, self_attention
from espo_jax.model.cache import append
from espo_jax.model.config import ModelConfig
from espo_jax.model.depth import KeysValues, Ran, Skip, Track
from espo_jax.model.rope import Rotation, rotate


def _kernel(scale: float, *axes: str) -> Callable[..., Any]:
  return nn.with_logical_partitioning(nn.initializers.variance_scaling(scale, 'fan_in', 'normal'), axes)


class Projection(nn.Module):
  """A linear map whose kernel names logical axes, with a low-rank adapter where the config sets one.

  Attributes:
    config: The decoder's shape.
    features: The number of features of the output.
    axes: The kernel's logical axes.
    use_bias: Whether there is a bias.
    scale: The variance of the output at initialisation, for inputs of unit variance.
  """

  config: ModelConfig
  features: int
  axes: tuple[str, str]
  use_bias: bool = False
  scale: float = 1.0

  @nn.compact
  def __call__(self, x: Float[Array, '... D']) -> Float[Array, '... F']:
    """`x W + b + alpha / rank * (x A) B`. The adapter starts at zero because `B` does."""
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
  """The initial variance of a residual branch. With it all branches together have the variance of the embedding."""
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
  """The scope of whole sequences, in which tokens attend within their segments and to the prompts that these share."""

  segments: Int[Array, 'B S']
  shared: Shared | None = None


class Following(NamedTuple):
  """The scope of new tokens, which attend to their row's cache and to themselves."""

  lengths: Int[Array, 'B']  # number of each row's cached tokens, without the new ones
  longest: Int[Array, '']  # the most tokens of any live row, with the new ones


Scope: TypeAlias = Together | Following


class Attention(nn.Module):
  """Self-attention over the given tokens, or over a cache that already holds their keys and values."""

  config: ModelConfig
  windowed: bool

  def setup(self):
    """Declare the parts."""
    cfg = self.config
    query, kv = cfg.num_heads * cfg.head_dim, cfg.num_kv_heads * cfg.head_dim
    self.q_proj = Projection(cfg, query, ('embed', 'heads'), cfg.qkv_bias)
    self.k_proj = Projection(cfg, kv, ('embed', 'kv_heads'), cfg.qkv_bias)
    self.v_proj = Projection(cfg, kv, ('embed', 'kv_heads'), cfg.qkv_bias)
    self.o_proj = Projection(cfg, cfg.hidden_size, ('heads', 'embed'), cfg.out_bias, _branch(cfg))
    if cfg.qk_norm:
      self.q_norm, self.k_norm = RMSNorm(cfg), RMSNorm(cfg)

  def keys_values(self, x: Float[Array, 'B S D'], turn: Rotation) -> tuple[Float[Array, 'J B S K'], Float[Array, 'J B S K']]:
    """The tokens' keys and values."""
    keys = self._heads(self.k_proj(x))
    keys = rotate(self.k_norm(keys) if self.config.qk_norm else keys, turn)
    values = self._heads(self.v_proj(x))
    return keys.transpose(2, 0, 1, 3), values.transpose(2, 0, 1, 3)

  def __call__(
    self, x: Float[Array, 'B S D'], turn: Rotation, scope: Scope, kv: KeysValues, layer: Int[Array, ''] | None
  ) -> Float[Array, 'B S D']:
    """The attended states.

    Args:
      x: The normalised residual stream.
      turn: The rotation of the tokens' positions.
      scope: The tokens that each token attends to.
      kv: The tokens' keys and values, or the cache that holds them.
      layer: The index of this layer in a stacked cache; None for a cache of one layer.
    """
    cfg = self.config
    queries = self._heads(self.q_proj(x))
    queries = rotate(self.q_norm(queries) if cfg.qk_norm else queries, turn)
    window = cfg.sliding_window if self.windowed else 0
    if isinstance(scope, Together):
      out = self_attention(queries, *kv, scope.segments, window, cfg.attention, scope.shared)
    else:
      own = kv if layer is None else (kv[0][layer], kv[1][layer])
      out = cached_attention(queries, *own, scope.lengths, scope.longest, window, cfg.paged_kernels)
    return self.o_proj(out.reshape(*x.shape[:2], cfg.num_heads * cfg.head_dim))

  def _heads(self, flat: Float[Array, 'B S HK']) -> Float[Array, 'B S H K']:
    return flat.reshape(*flat.shape[:2], -1, self.config.head_dim)


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
    self,
    x: Float[Array, 'B S D'],
    turn: Rotation,
    scope: Scope,
    cached: KeysValues | None,
    layer: Int[Array, ''] | None = None,
    skip: Skip | None = None,
  ) -> tuple[Float[Array, 'B S D'], KeysValues, Ran]:
    """Run the block.

    Args:
      x: The residual stream.
      turn: The rotation of the tokens' positions.
      scope: The tokens that each token attends to.
      cached: The stacked cache or that of this layer; None without a cache.
      layer: The index of this layer in a stacked cache; None for a cache of one layer.
      skip: The tokens that skip the block, or its feed-forward part; None where all tokens run.

    Returns:
      The new stream; the keys and values of `x`, or the cache that now holds them; and what exit decisions see of the block.
    """
    normed = self.attention_norm(x)
    fresh = self._keys_values(normed, turn, skip)
    kv = fresh
    if isinstance(scope, Following):
      assert cached is not None
      kv = (append(cached[0], fresh[0], scope.lengths, layer), append(cached[1], fresh[1], scope.lengths, layer))

    def kept(branch: Array) -> Array:
      # Each branch is masked, not the stream after the block, whose gradient took 2.5 times as long on a CPU.
      return branch if skip is None else jnp.where(skip.runs[..., None], branch, 0)

    def feed(block: 'Block', x: Array) -> Array:
      return parallel.constrain(x + kept(block.mlp(block.mlp_norm(x))), 'batch', None, None)

    def run(block: 'Block', x: Array, normed: Array, kv: KeysValues) -> Array:
      return feed(block, x + kept(block.attention(normed, turn, scope, kv, layer)))

    if skip is not None and skip.weight is not None:
      whole = run(self, x, normed, kv)
      return x + skip.weight[..., None].astype(x.dtype) * (whole - x), kv, Ran(x, fresh)
    if skip is not None and skip.part == 'ffn':
      x = x + self.attention(normed, turn, scope, kv, layer)
      return self._where_needed(skip, feed, x), kv, Ran(x, fresh)
    # The condition only reads the cache; it is written outside, because a cache that a branch returns would be copied.
    return self._where_needed(skip, run, x, normed, kv), kv, Ran(x, fresh)

  def _where_needed(self, skip: Skip | None, branch: Callable[..., Array], x: Float[Array, 'B S D'], *others: Any) -> Array:
    """The stream after `branch`, or `x` if no token needs the branch."""
    if skip is None or skip.needed is None:
      return branch(self, x, *others)
    return nn.cond(skip.needed, branch, _stay, self, x, *others)

  def _keys_values(self, normed: Float[Array, 'B S D'], turn: Rotation, skip: Skip | None) -> KeysValues:
    """The tokens' keys and values. For tokens that skip the block they follow the policy's `kv_fill`."""
    if skip is None or skip.fill == 'recompute':
      return self.attention.keys_values(normed, turn)

    def project(block: 'Block', normed: Array) -> KeysValues:
      return block.attention.keys_values(normed, turn)

    def leave_out(block: 'Block', normed: Array) -> KeysValues:
      blank = jnp.zeros((self.config.num_kv_heads, *normed.shape[:2], self.config.head_dim), normed.dtype)
      return (blank, blank) if skip.fresh is None else skip.fresh

    new = project(self, normed) if skip.needed is None else nn.cond(skip.needed, project, leave_out, self, normed)
    if skip.fresh is None:
      return new
    runs = skip.runs[None, ..., None]
    return jnp.where(runs, new[0], skip.fresh[0]), jnp.where(runs, new[1], skip.fresh[1])


def _stay(block: Block, x: Array, *others: Any) -> Array:
  del block, others
  return x


Gate: TypeAlias = Callable[[Float[Array, 'B S D'], Track, Int[Array, ''] | int], tuple[Track, Skip | None]]


class ScannedBlock(Block):
  """A `Block` in the form that `nn.scan` needs. The cache is carried, not scanned over, so that it is written in place."""

  def __call__(  # type: ignore[override]
    self,
    carry: tuple[Array, KeysValues | None, Track | None],
    layer: Int[Array, ''],
    turn: Rotation,
    scope: Scope,
    gate: Gate | None,
  ) -> tuple[tuple[Array, KeysValues | None, Track | None], tuple[KeysValues | None, Array]]:
    """Carry the stream, the stacked cache and the tokens' track through layer `layer`.

    The scan's outputs are the layer's keys and values, or None with a cache, and the stream that entered the layer.
    """
    entered, cached, track = carry
    skip = None
    if gate is not None and track is not None:
      track, skip = gate(entered, track, layer)
    x, kv, ran = Block.__call__(self, entered, turn, scope, cached, layer, skip)
    if track is not None:
      track = track.past(ran)
    return ((x, None, track), (kv, entered)) if cached is None else ((x, kv, track), (None, entered))

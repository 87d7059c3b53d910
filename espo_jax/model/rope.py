"""Rotary position embedding (Su et al. 2021) and its extensions to longer contexts."""

import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from espo_jax.model.config import ModelConfig, RopeScaling

Rotation = tuple[Float[Array, 'B S half'], Float[Array, 'B S half']]


def frequencies(config: ModelConfig) -> tuple[Float[np.ndarray, 'half'], float]:
  """Radians per position for each pair of channels, and the factor on sine and cosine.

  They are computed on the host in float64.

  | rope_type | effect |
  |---|---|
  | `linear` | divides all frequencies by `factor` |
  | `llama3` | divides the low frequencies, blending over a band of wavelengths (Llama 3.1) |
  | `yarn` | divides the low frequencies, blending over a band of dimensions, and sharpens the attention (Peng et al. 2023) |
  """
  rope, half = config.rope_scaling, config.head_dim // 2
  base = config.rope_theta ** (-np.arange(half) / half)
  if rope.rope_type == 'linear':
    return base / rope.factor, 1.0
  if rope.rope_type == 'llama3':
    turns = rope.original_max_position_embeddings * base / (2 * np.pi)  # rotations over the original context
    keep = np.clip((turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor), 0, 1)
    return keep * base + (1 - keep) * base / rope.factor, 1.0
  if rope.rope_type == 'yarn':

    def pair(turns: float) -> float:  # the pair of channels that makes `turns` rotations
      return half * math.log(rope.original_max_position_embeddings / (turns * 2 * math.pi)) / math.log(config.rope_theta)

    low, high = pair(rope.beta_fast), pair(rope.beta_slow)
    if rope.truncate:
      low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, config.head_dim - 1)
    keep = 1 - np.clip((np.arange(half) - low) / (high - low or 1e-3), 0, 1)
    return keep * base + (1 - keep) * base / rope.factor, _sharpening(rope)
  return base, 1.0


def _sharpening(rope: RopeScaling) -> float:
  """The factor on sine and cosine by which `yarn` sharpens the attention."""

  def of(mscale: float) -> float:
    return 0.1 * mscale * math.log(max(rope.factor, 1.0)) + 1

  if rope.mscale and rope.mscale_all_dim:
    return rope.attention_factor or of(rope.mscale) / of(rope.mscale_all_dim)
  return rope.attention_factor or of(1.0)


def rotation(config: ModelConfig, positions: Int[Array, 'B S']) -> Rotation:
  """Sine and cosine of each token's angles, which all layers share."""
  radians, scale = frequencies(config)
  angle = positions[..., None].astype(jnp.float32) * jnp.asarray(radians, jnp.float32)
  return jnp.sin(angle) * scale, jnp.cos(angle) * scale


def rotate(x: Float[Array, 'B S H K'], turn: Rotation) -> Float[Array, 'B S H K']:
  """Rotate the pairs of channels `(i, i + K / 2)` (the half-split layout), in float32."""
  half = x.shape[-1] // 2
  sin, cos = (part[:, :, None, :] for part in turn)
  x1, x2 = x[..., :half].astype(jnp.float32), x[..., half:].astype(jnp.float32)
  return jnp.concatenate([x1 * cos - x2 * sin, x2 * cos + x1 * sin], axis=-1).astype(x.dtype)

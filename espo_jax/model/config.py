"""The shape of a decoder, as data: a family of models is a `ModelConfig`, not a branch in the forward pass."""

import dataclasses

import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class ModelConfig:
  """A decoder of today's shape: RMSNorm, RoPE, grouped-query attention, SwiGLU, no dropout."""

  vocab_size: int
  hidden_size: int = 128
  intermediate_size: int = 256
  num_layers: int = 3
  num_heads: int = 4
  num_kv_heads: int = 2
  head_dim: int = 32
  rope_theta: float = 10_000.0
  rms_norm_eps: float = 1e-6
  tie_word_embeddings: bool = True
  scan_layers: bool = False  # one compiled layer, scanned; unrolled is faster on a CPU
  dtype: str = 'float32'  # of activations and matrix products
  param_dtype: str = 'float32'

  def __post_init__(self):
    if self.num_heads % self.num_kv_heads:
      raise ValueError(
        f'model.num_heads = {self.num_heads} must be a multiple of model.num_kv_heads = {self.num_kv_heads}: '
        'every key-value head serves the same number of query heads.'
      )
    if self.head_dim % 2:
      raise ValueError(f'model.head_dim = {self.head_dim} must be even: RoPE rotates pairs of channels.')

  @property
  def activation_dtype(self) -> jnp.dtype:
    """The activations' dtype as a numpy dtype."""
    return jnp.dtype(self.dtype)

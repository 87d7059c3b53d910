"""The networks of the exits: a gate, which scores an exit of a token, and a translator, which maps the stream that leaves.

A gate is a logit of a token. A translator adds a correction to the stream that enters the exit's block, which then goes to the
final norm and the LM head. Its last matrix begins at zero, so that an untrained exit is the model cut off. Only what a token
is read from is translated. The keys and values of skipped blocks come from the stream as it is.

Some of these networks mix a token with those before it. They remember one vector per token, which stands in a column of the
cache like a key: in the cached pass a network reads the columns before the new tokens, and in a whole pass the tokens at
position 0 have none before them.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from espo_jax.model.cache import Cache
from espo_jax.model.config import ModelConfig
from espo_jax.types import takes_numpy

TAPS = 4  # tokens that a local translator sees, its own included


@takes_numpy
def recurrence(
  values: Float[Array, 'B S R'], keep: Float[Array, 'B S R'], before: Float[Array, 'B R']
) -> Float[Array, 'B S R']:
  """Computes the gated linear recurrence `h_t = keep_t h_{t-1} + (1 - keep_t) values_t`.

  Args:
    values: The inputs of the tokens.
    keep: The share of the state that each token keeps; 0 at the first token of a sequence.
    before: The state before the first of these tokens.
  """

  def after(one: tuple[Array, Array], other: tuple[Array, Array]) -> tuple[Array, Array]:
    return one[0] * other[0], other[0] * one[1] + other[1]

  kept, state = jax.lax.associative_scan(after, (keep, (1 - keep) * values), axis=1)
  return state + kept * before[:, None]


@takes_numpy
def convolution(
  values: Float[Array, 'B S R'], taps: Float[Array, 'K R'], positions: Int[Array, 'B S'], before: Float[Array, 'B K-1 R']
) -> Float[Array, 'B S R']:
  """Computes the causal convolution `sum_k taps_k values_{t-k}` of each channel, over the tokens of a token's own sequence.

  Args:
    values: The inputs of the tokens.
    taps: The weight of the token itself, of the one before it, and so on.
    positions: The tokens' positions in their sequences.
    before: The inputs of the tokens before these.
  """
  count, width = taps.shape[0], values.shape[1]
  whole = jnp.concatenate([before, values], axis=1)
  shifted = (whole[:, count - 1 - k : count - 1 - k + width] for k in range(count))
  seen = (tap * jnp.where(positions[..., None] >= k, x, 0.0) for k, (tap, x) in enumerate(zip(taps, shifted, strict=True)))
  return sum(seen, jnp.zeros_like(values))


def is_local(config: ModelConfig, head: Int[Array, ''] | int) -> Bool[Array, ''] | bool:
  """Returns whether the translator of an exit is a convolution: of 'local_global' those of the first half of the exits are."""
  return config.exits.translator == 'local_global' and 2 * head < len(config.exit_blocks)


def columns_before(cache: Cache, config: ModelConfig) -> Float[Array, 'E M B K R'] | None:
  """Returns what the networks of each exit remember of each row's last tokens; None without memories."""
  if cache.heads is None:
    return None
  index = jnp.maximum(cache.lengths[:, None] + jnp.arange(1 - TAPS, 0), 0)
  found = jnp.take_along_axis(cache.heads, index[None, ..., None], axis=2)
  return found.reshape(len(config.exit_blocks), -1, *found.shape[1:])


class ExitNetworks(nn.Module):
  """The gates and translators of all exits, in float32. `head` is the number of an exit.

  Its methods take `before`, what the exit's networks remember of the tokens before these; None for nothing.
  """

  config: ModelConfig

  def setup(self):
    """Declare the parameters, which are stacked over the exits."""
    its, width = self.config.exits, self.config.hidden_size
    count = len(self.config.exit_blocks)

    def stacked(name: str, shape: tuple[int, ...], *axes: str | None, zero: bool = False) -> Any:
      draw = nn.initializers.zeros if zero else nn.initializers.lecun_normal(batch_axis=0)
      return self.param(name, nn.with_logical_partitioning(draw, ('exits', *axes)), (count, *shape), jnp.float32)

    inner = {'linear': width, 'mlp': 2 * width, 'statistics': 4, 'candidates': its.width, 'recurrence': its.width}[its.kind]
    if its.kind in ('mlp', 'candidates'):
      reads, axis = (width, 'embed') if its.kind == 'mlp' else (3 * its.candidates, None)
      self.inner_kernel = stacked('inner_kernel', (reads, inner), axis, 'mlp')
      self.inner_bias = stacked('inner_bias', (inner,), 'mlp', zero=True)
    if its.kind == 'recurrence':
      self.recurrent_kernel = stacked('recurrent_kernel', (width, 2 * inner), 'embed', None)
    self.kernel = stacked('kernel', (inner,), None, zero=True)
    self.bias = stacked('bias', (), zero=True)
    if its.translator != 'none':
      self.down = stacked('down', (width, its.width * (2 if its.translator == 'local_global' else 1)), 'embed', None)
      self.up = stacked('up', (its.width, width), None, 'embed', zero=True)
    if its.translator == 'local_global':
      self.taps = stacked('taps', (TAPS, its.width), None, None)

  def logit(
    self,
    x: Float[Array, 'B S D'],
    head: Int[Array, ''] | int,
    positions: Int[Array, 'B S'],
    before: Float[Array, 'M B K R'] | None,
    features: Float[Array, 'B S F'] | None = None,
  ) -> Float[Array, 'B S']:
    """The logits of an exit's gate for the streams that enter its block.

    Args:
      x: The streams.
      head: The number of the exit.
      positions: The tokens' positions.
      before: What the exit's networks remember of the tokens before these.
      features: What the gate reads of the exit's logits, where it reads logits and no stream.
    """
    if self.config.exits.kind in ('statistics', 'candidates'):
      assert features is not None
      seen = features
    elif self.config.exits.kind == 'recurrence':
      seen = self._recurrent(x, head, positions, before)
    else:
      seen = x.astype(jnp.float32)
    if self.config.exits.kind in ('mlp', 'candidates'):
      seen = nn.relu(seen @ self.inner_kernel[head] + self.inner_bias[head])
    return seen @ self.kernel[head] + self.bias[head]

  def translated(
    self,
    x: Float[Array, 'B S D'],
    head: Int[Array, ''] | int,
    positions: Int[Array, 'B S'],
    before: Float[Array, 'M B K R'] | None,
  ) -> Float[Array, 'B S D']:
    """The streams from which the tokens that leave here are read."""
    if self.config.exits.translator == 'none':
      return x
    if self.config.exits.translator == 'token':
      inner = nn.gelu(_normed(x) @ self.down[head])
    else:
      inner = self._local_global(x, head, positions, before)[0]
    return (x + _size(x) * (inner @ self.up[head])).astype(x.dtype)

  def translated_where_left(
    self,
    x: Float[Array, 'B S D'],
    blocks: Int[Array, 'B S'],
    entered: Any,
    positions: Int[Array, 'B S'],
    before: Float[Array, 'E M B K R'] | None,
  ) -> Float[Array, 'B S D']:
    """The streams after the last block, of which those of tokens that have left at an exit are translated.

    Args:
      x: The streams after the last block.
      blocks: The number of blocks that each token has run through.
      entered: The streams that entered the blocks, by block.
      positions: The tokens' positions.
      before: What the networks of each exit remember of the tokens before these.
    """
    for head, block in enumerate(self.config.exit_blocks):
      left = self.translated(entered[block], head, positions, None if before is None else before[head])
      x = jnp.where((blocks == block)[..., None], left, x)
    return x

  def memories(
    self, entered: Any, positions: Int[Array, 'B S'], before: Float[Array, 'E M B K R'] | None
  ) -> Float[Array, 'H B S R']:
    """What all networks remember of these tokens, in the layout of the cache.

    Args:
      entered: The streams that entered the blocks, by block.
      positions: The tokens' positions.
      before: What the networks of each exit remember of the tokens before these.
    """
    kept = []
    for head, block in enumerate(self.config.exit_blocks):
      x, past = entered[block], None if before is None else before[head]
      if self.config.exits.kind == 'recurrence':
        kept.append(self._recurrent(x, head, positions, past))
      if self.config.exits.translator == 'local_global':
        kept.append(self._local_global(x, head, positions, past)[1])
    return jnp.stack(kept)

  def _recurrent(self, x: Array, head: Array | int, positions: Array, before: Array | None) -> Float[Array, 'B S R']:
    return _state(_normed(x) @ self.recurrent_kernel[head], positions, None if before is None else before[0, :, -1])

  def _local_global(
    self, x: Array, head: Array | int, positions: Array, before: Array | None
  ) -> tuple[Float[Array, 'B S R'], Float[Array, 'B S R']]:
    """The inner activations of a translator and what it remembers: a convolution in the first half, a recurrence after it."""
    mixed = _normed(x) @ self.down[head]
    values = jnp.split(mixed, 2, axis=-1)[0]
    past = jnp.zeros((x.shape[0], TAPS - 1, values.shape[-1]), jnp.float32) if before is None else before[-1]
    state, local = _state(mixed, positions, past[:, -1]), is_local(self.config, head)
    near = convolution(values, self.taps[head], positions, past)
    return nn.gelu(jnp.where(local, near, state)), jnp.where(local, values, state)


def _state(mixed: Float[Array, 'B S R2'], positions: Array, before: Array | None) -> Float[Array, 'B S R']:
  values, gates = jnp.split(mixed, 2, axis=-1)
  keep = jnp.where(positions[..., None] > 0, jax.nn.sigmoid(gates), 0.0)
  return recurrence(values, keep, jnp.zeros_like(values[:, 0]) if before is None else before)


def _size(x: Float[Array, '... D']) -> Float[Array, '... 1']:
  return jnp.sqrt(jnp.square(x.astype(jnp.float32)).mean(-1, keepdims=True) + 1e-6)


def _normed(x: Float[Array, '... D']) -> Float[Array, '... D']:
  return x.astype(jnp.float32) / _size(x)

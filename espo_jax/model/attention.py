"""Grouped-query attention: one function for whole sequences, one for new tokens over a cache. The softmax is in float32.

Attention over whole sequences has several forms (`espo_jax.model.fused`). The scores of one layer of a 7B model over one
sequence of 9216 tokens take 9.5 GB, and those of 512 queries take 0.5 GB. So `chunked` takes 512 queries at a time and
recomputes their scores in the gradient, and `cudnn` takes as many because of its mask. `chunked` still writes the scores to
memory, which bounds a long update by bandwidth and not by products. The kernels never write them.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from espo_jax import parallel
from espo_jax.model import cudnn, fused, splash
from espo_jax.model import paged as on_device

_MASKED = -1e30  # the score of a masked key; it is finite, so that a row of padding gives no nan
_WIDTHS = 8  # the most widths that the cache's columns are divided into
_NARROWEST = 64  # columns; a narrower width is not worth a branch
_FEW = 8  # up to this many query steps, keys are the first operand of the product
_AT_A_TIME = 512  # queries of whole sequences whose scores are in memory at a time


class Shared(NamedTuple):
  """What tokens see of a prompt that several segments share. It stands before them, in a segment of its own."""

  prompts: Int[Array, 'B S']  # the segment of the prompt that each token sees beside its own segment
  positions: Int[Array, 'B S']  # the token's position in its prompt and segment together


def self_attention(
  queries: Float[Array, 'B S H K'],
  keys: Float[Array, 'J B S K'],
  values: Float[Array, 'J B S K'],
  segments: Int[Array, 'B S'],
  window: int,
  form: str,
  shared: Shared | None = None,
) -> Float[Array, 'B S H K']:
  """Each token attends to the tokens of its own segment up to itself. What padding attends to depends on the form.

  With `shared` it also attends to the tokens of its prompt.

  Args:
    queries: The queries of the tokens; query head `h` reads key-value head `h // (H / J)`.
    keys: The keys of the same tokens.
    values: The values of the same tokens.
    segments: The number of the sequence that each token belongs to; 0 is padding. A segment is contiguous and in order.
    window: The most tokens that a token attends to, itself included; 0 for no limit.
    form: The form of the computation, one of `model.config.ATTENTION`.
    shared: The prompts that segments share; None for none.

  Raises:
    ValueError: The devices cannot compute the form, or it takes no shared prompts.
  """
  form = fused.chosen(form, queries)
  if form == 'chunked':
    return _by_parts(_attend, queries, keys, values, segments, window, shared)
  if form == 'splash' and shared is not None:
    raise ValueError("the form 'splash' of attention takes no shared prompts; fix: form = 'chunked'")

  def kernel(queries: Array, keys: Array, values: Array, segments: Array, *shared: Array) -> Float[Array, 'B S J G K']:
    if form == 'splash':
      return splash.attend(queries, keys, values, segments, window)
    flat = queries.reshape(*queries.shape[:2], -1, queries.shape[4])
    its = Shared(*shared) if shared else None
    return _by_parts(cudnn.attend, flat, keys, values, segments, window, its).reshape(queries.shape)

  grouped = queries.reshape(*queries.shape[:2], keys.shape[0], -1, queries.shape[3])
  heads = ('kv_heads', 'batch', None, None)
  arrays = (grouped, ('batch', None, 'kv_heads', None, None)), (keys, heads), (values, heads)
  of_tokens = [(x, ('batch', None)) for x in (segments, *(shared or ()))]
  return parallel.on_each_device(kernel, *arrays, *of_tokens).reshape(queries.shape)


def _by_parts(
  attend_to: Callable[..., Array],
  queries: Float[Array, 'B S H K'],
  keys: Float[Array, 'J B S K'],
  values: Float[Array, 'J B S K'],
  segments: Int[Array, 'B S'],
  window: int,
  shared: Shared | None,
) -> Float[Array, 'B S H K']:
  """The attention of whole sequences, for some queries at a time by `attend_to`, whose mask says which keys they see."""
  length = segments.shape[1]

  def attend(start: Int[Array, ''], queries: Array, own: Int[Array, 'B Q'], behind: Shared | None) -> Float[Array, 'B Q H K']:
    inside = own[:, :, None] == segments[:, None, :]
    if shared is None or behind is None:
      age = start + jnp.arange(own.shape[1])[:, None] - jnp.arange(length)
    else:  # by position, because the rows before this one stand between it and its prompt
      age = behind.positions[:, :, None] - shared.positions[:, None, :]
      inside |= behind.prompts[:, :, None] == segments[:, None, :]
    near = (age >= 0) & (age < window) if window else age >= 0
    return attend_to(queries, keys, values, near & inside & (segments[:, None, :] > 0))

  if length <= _AT_A_TIME:
    return attend(jnp.zeros((), jnp.int32), queries, segments, shared)

  def split(x: Array) -> Array:  # [B, S, ...] to [parts, B, Q, ...]
    x = jnp.pad(x, [(0, 0), (0, -length % _AT_A_TIME)] + [(0, 0)] * (x.ndim - 2))
    return x.reshape(x.shape[0], -1, _AT_A_TIME, *x.shape[2:]).swapaxes(0, 1)

  # Without the barrier XLA would compute the masks of all parts once for all layers, and keep them in memory.
  queries, segments, shared = jax.lax.optimization_barrier((queries, segments, shared))
  # The gradient recomputes the scores, which would otherwise be the largest array by far.
  parts = jax.tree.map(split, (queries, segments, shared))
  starts = jnp.arange(parts[1].shape[0]) * _AT_A_TIME
  out = jax.lax.map(lambda xs: jax.checkpoint(attend)(*xs), (starts, *parts))
  return out.swapaxes(0, 1).reshape(queries.shape[0], -1, *queries.shape[2:])[:, :length]


def cached_attention(
  queries: Float[Array, 'B S H K'],
  keys: Float[Array, 'J B C K'],
  values: Float[Array, 'J B C K'],
  lengths: Int[Array, 'B'],
  longest: Int[Array, ''],
  window: int,
  kernels: bool = False,
) -> Float[Array, 'B S H K']:
  """The newest tokens of each row attend to all of the row's tokens in the cache, themselves included.

  Columns past the longest row are not read: the smallest of a few widths that holds it is used.

  Args:
    queries: The queries of the newest `S` tokens.
    keys: The cached keys, including those of the newest tokens.
    values: The cached values, including those of the newest tokens.
    lengths: The number of each row's tokens before the newest.
    longest: The most tokens of any live row, including the newest.
    window: The most tokens that a token attends to, itself included; 0 for no limit.
    kernels: Whether jax's paged kernels read the cache, in programs lowered for TPU or GPU with one new token per row.
  """
  columns, steps = keys.shape[2], queries.shape[1]

  def over(width: int, queries: Array, keys: Array, values: Array, lengths: Array) -> Array:
    age = lengths[:, None, None] + jnp.arange(steps)[:, None] - jnp.arange(width)
    seen = (age >= 0) & (age < window) if window else age >= 0
    return _attend(queries, keys[:, :, :width], values[:, :, :width], seen)

  stride = max(-(-columns // _WIDTHS), _NARROWEST)
  widths = [*range(stride, columns * 3 // 4 + 1, stride), columns]  # no width close to all columns: a slice may cost a copy
  branches = [functools.partial(over, width) for width in widths]

  def plain(queries: Array, keys: Array, values: Array, lengths: Array) -> Array:
    return jax.lax.switch(jnp.minimum((longest - 1) // stride, len(widths) - 1), branches, queries, keys, values, lengths)

  if not kernels or steps > 1:
    return plain(queries, keys, values, lengths)

  def paged(kernel: Callable[..., Array], queries: Array, keys: Array, values: Array, lengths: Array) -> Array:
    return kernel(queries[:, 0], keys, values, jnp.minimum(lengths + 1, longest))[:, None]

  on_tpu, on_gpu = (functools.partial(paged, kernel) for kernel in (on_device.on_tpu, on_device.on_gpu))
  return jax.lax.platform_dependent(queries, keys, values, lengths, tpu=on_tpu, cuda=on_gpu, default=plain)


def _attend(
  queries: Float[Array, 'B S H K'],
  keys: Float[Array, 'J B C K'],
  values: Float[Array, 'J B C K'],
  seen: Bool[Array, 'B S C'],
) -> Float[Array, 'B S H K']:
  batch, steps, _, head_dim = queries.shape
  grouped = queries.reshape(batch, steps, keys.shape[0], -1, head_dim).transpose(2, 0, 3, 1, 4)  # [J, B, G, S, K]
  many = steps > _FEW
  scores = _product(grouped, keys, 4, 3) if many else _product(keys, grouped, 3, 4).transpose(0, 1, 3, 4, 2)
  scores = jnp.where(seen[:, None], scores * head_dim**-0.5, _MASKED)  # [J, B, G, S, C]
  weights = jax.nn.softmax(scores, axis=-1).astype(values.dtype)
  return _product(weights, values, 4, 2).astype(values.dtype).transpose(1, 3, 0, 2, 4).reshape(queries.shape)


def _product(x: Float[Array, 'J B ...'], y: Float[Array, 'J B ...'], x_axis: int, y_axis: int) -> Float[Array, 'J B ...']:
  """The product of `x` and `y` over one axis of each, batched over heads and rows, in float32.

  XLA on a CPU does not reorder the operands. The fast order is keys first for few queries, and queries first for many.
  """
  return jax.lax.dot_general(x, y, (((x_axis,), (y_axis,)), ((0, 1), (0, 1))), preferred_element_type=jnp.float32)

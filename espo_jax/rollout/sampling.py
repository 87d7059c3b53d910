"""Draws tokens from the distribution that the logits and the config define.

The random key of a token folds in the seed, the step, the prompt's id, the sample's index and the position. It does not depend
on the row's place in the batch, so a sample is the same whatever else is decoded.
"""

from typing import TypeAlias

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, Shaped, UInt32

from espo_jax.types import Candidates, takes_numpy

_SHADOW = 0xFFFF_FFFF  # no token has this position; its draw makes a row a shadow row
_GREEDY_BELOW = 1e-6  # below this temperature, decoding is greedy
_BELOW_ONE = 1 - 2.0**-22  # a positive float32 times this is smaller, also after rounding
Scalar: TypeAlias = float | np.generic | Shaped[Array, '']


class Sampling(flax.struct.PyTreeNode):
  """How the model's logits become the distribution that is sampled. The fields are traced, so a new value compiles nothing.

  The order is that of transformers. First the temperature divides the logits. Then `top_k` keeps the likeliest tokens. Of
  these `top_p` keeps the fewest that hold that share of the probability. Of these `min_p` keeps the tokens that are at least
  `min_p` times as likely as the likeliest. Ties with the last token kept are kept as well. Nothing is sorted: see `_threshold`.
  """

  temperature: Scalar = 1.0  # 0 is greedy
  top_p: Scalar = 1.0
  top_k: Scalar = 0  # 0 keeps all
  min_p: Scalar = 0.0


def row_keys(key: Key[Array, ''], prompt_ids: UInt32[Array, 'P'], samples: int) -> Key[Array, 'N']:
  """Makes one key per row, group-major, from the prompt's id and the sample's index."""
  prompt_keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(prompt_ids)
  per_sample = jax.vmap(lambda k: jax.vmap(lambda g: jax.random.fold_in(k, g))(jnp.arange(samples, dtype=jnp.uint32)))
  return per_sample(prompt_keys).reshape(-1)


def token_noise(keys: Key[Array, 'N'], positions: Int[Array, 'N'], count: int = 2) -> Float[Array, 'N count']:
  """Draws `count` uniforms for each row's token at `positions`.

  The first draws the token, the second is for the stop rule, and the third for the exit policy. The first ones do not depend on
  `count`.
  """
  return jax.vmap(lambda key, position: jax.random.uniform(jax.random.fold_in(key, position), (count,)))(keys, positions)


def shadow_rows(keys: Key[Array, 'N'], share: Float[Array, '']) -> Array:
  """Chooses each row with probability `share`."""
  return jax.vmap(lambda k: jax.random.uniform(jax.random.fold_in(k, _SHADOW)))(keys) < share


@takes_numpy
def sampled_logits(logits: Float[Array, '... V'], sampling: Sampling) -> Float[Array, '... V']:
  """Returns the logits of the sampling distribution, `-inf` without mass. Greedy decoding has those of temperature 1."""
  temperature, top_p, top_k, min_p = (
    jnp.asarray(x) for x in (sampling.temperature, sampling.top_p, sampling.top_k, sampling.min_p)
  )
  greedy = temperature < _GREEDY_BELOW
  logits = logits / jnp.where(greedy, 1.0, temperature)
  truncates = (top_p < 1) | (top_k > 0) | (min_p > 0)

  def truncate(logits: Array) -> Array:
    weights = jnp.exp(logits - logits.max(-1, keepdims=True))  # the likeliest token has weight 1
    k = jnp.where(top_k > 0, top_k, logits.shape[-1])
    least = _threshold(weights, lambda kept: kept.sum(-1, keepdims=True), k)
    weights = jnp.where(weights >= least, weights, 0.0)
    share = jnp.minimum(top_p, _BELOW_ONE) * weights.sum(-1, keepdims=True)
    least = _threshold(weights, lambda kept: jnp.where(kept, weights, 0.0).sum(-1, keepdims=True), share)
    least = jnp.maximum(jnp.where(top_p < 1, least, 0.0), min_p)
    return jnp.where((weights >= least) & (weights > 0), logits, -jnp.inf)

  return jax.lax.cond(truncates & ~greedy, truncate, lambda logits: logits, logits)


def draw(logits: Float[Array, 'N V'], uniform: Float[Array, 'N'], greedy: Array) -> tuple[Int[Array, 'N'], Float[Array, 'N']]:
  """Draws tokens by inverse CDF. It needs one uniform per row; Gumbel noise would need one per vocabulary entry.

  The CDF is searched in two levels, first over blocks and then within one block, because a cumulative sum over the whole
  vocabulary costs more than the logits.

  Args:
    logits: The logits of the distribution; `-inf` means no mass.
    uniform: Uniform draws in [0, 1).
    greedy: Whether to take the likeliest token.

  Returns:
    The tokens and their log-probabilities in nats.
  """
  rows, vocabulary = logits.shape
  width = 1 << max(vocabulary - 1, 1).bit_length() // 2
  top = logits.max(-1)
  weights = jnp.exp(logits - top[:, None])
  blocks = jnp.pad(weights, ((0, 0), (0, -vocabulary % width))).reshape(rows, -1, width)
  upto = jnp.cumsum(blocks.sum(-1), axis=-1)
  total = upto[:, -1]
  target = jnp.minimum(uniform, _BELOW_ONE) * total
  block = jnp.argmax(upto > target[:, None], axis=-1)
  before = jnp.where(block > 0, jnp.take_along_axis(upto, jnp.maximum(block - 1, 0)[:, None], axis=-1)[:, 0], 0.0)
  within = jnp.cumsum(jnp.take_along_axis(blocks, block[:, None, None], axis=1)[:, 0], axis=-1)
  rest = jnp.clip(target - before, 0.0, within[:, -1] * _BELOW_ONE)  # rounding must not leave the block
  sampled = block * width + jnp.argmax(within > rest[:, None], axis=-1)
  tokens = jax.lax.cond(greedy, lambda: logits.argmax(axis=-1), lambda: sampled).astype(jnp.int32)
  chosen = jnp.take_along_axis(logits, tokens[:, None], axis=-1)[:, 0]
  return tokens, chosen - top - jnp.log(total)


def draw_residual(
  logits: Float[Array, 'N V'], q: Float[Array, 'N V'], uniform: Float[Array, 'N'], greedy: Array
) -> Int[Array, 'N']:
  """Draws the tokens that replace refused ones: from the normalised `(p - q)+`, or from `p` if nothing is left of it.

  Args:
    logits: The logits of `p`.
    q: The probabilities that the refused tokens were drawn with; they may add up to less than 1.
    uniform: Uniform draws in [0, 1).
    greedy: Whether to take the likeliest token of `p`.
  """
  p = jax.nn.softmax(logits, axis=-1)
  rest = jnp.maximum(p - q, 0.0)
  rest = jnp.where(rest.sum(axis=-1, keepdims=True) > 0, rest, p)  # p = q up to rounding, so that nothing was refused
  return draw(jnp.where(greedy, logits, jnp.log(rest)), uniform, greedy)[0]


def logprobs_of(logits: Float[Array, '... V'], tokens: Int[Array, '...']) -> Float[Array, '...']:
  """Returns the log-probability of each token under the distribution with these logits."""
  return jnp.take_along_axis(logits, tokens[..., None], axis=-1)[..., 0] - jax.nn.logsumexp(logits, axis=-1)


def likeliest(logits: Float[Array, '... V'], count: int) -> Candidates:
  """Returns the `count` likeliest tokens of the distribution with these logits, which has at least so many."""
  best, tokens = jax.lax.top_k(logits, count)
  return Candidates(tokens.astype(jnp.int32), best - jax.nn.logsumexp(logits, axis=-1, keepdims=True))


def no_candidates(*shape: int, count: int) -> Candidates:
  """Returns the candidates of tokens that do not exist: zeros."""
  return Candidates(jnp.zeros((*shape, count), jnp.int32), jnp.zeros((*shape, count)))


def is_greedy(sampling: Sampling) -> Array:
  """Returns whether decoding is greedy."""
  return jnp.asarray(sampling.temperature) < _GREEDY_BELOW


def _threshold(weights, measure, wanted):
  """Returns the largest weight `x` for which `measure(weights >= x)` is at least `wanted`.

  The search sets one bit at a time, in 31 passes over the weights, instead of a sort. It works because positive floats are
  ordered like their bit patterns.
  """

  def step(i: Array, bits: Array) -> Array:
    raised = bits | (jnp.int32(1) << (30 - i))
    enough = measure(weights >= jax.lax.bitcast_convert_type(raised, np.float32)) >= wanted
    return jnp.where(enough, raised, bits)

  start = jnp.zeros((*weights.shape[:-1], 1), jnp.int32)
  return jax.lax.bitcast_convert_type(jax.lax.fori_loop(0, 31, step, start), np.float32)

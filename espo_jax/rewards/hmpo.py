"""HMPO (arXiv 2606.01934): the reward of correct answers depends on the median length of their group."""

from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from espo_jax.registry import source
from espo_jax.rewards.registered import register


def median_budget(correct: Float[Array, 'P G'], lengths: Int[Array, 'P G']) -> Float[Array, 'P']:
  """Returns the median length of each group's correct answers, the midpoint for an even number; 0 without correct answers."""
  right = correct > 0
  count = right.sum(axis=1)
  ordered = jnp.sort(jnp.where(right, lengths, jnp.iinfo(lengths.dtype).max), axis=1).astype(jnp.float32)

  def at(rank: Int[Array, 'P']) -> Float[Array, 'P']:
    return jnp.take_along_axis(ordered, jnp.maximum(rank, 0)[:, None], axis=1)[:, 0]

  return jnp.where(count > 0, 0.5 * (at((count - 1) // 2) + at(count // 2)), 0.0)


@register('hmpo')
@source('HMPO, arXiv 2606.01934', 'lam', 'budget', 'shape', 'combine')
def hmpo(
  correct: Float[Array, 'P G'],
  lengths: Int[Array, 'P G'],
  *,
  lam: float = 0.8,
  budget: Literal['median', 'mean', 'fixed'] = 'median',
  shape: Literal['cosine', 'linear', 'indicator'] = 'cosine',
  combine: Literal['product', 'sum'] = 'product',
  fixed_budget: float = 0.0,
) -> Float[Array, 'P G']:
  """Computes `R = R_acc * clip(cos(pi n / (2 b)) + lam, 0, 1)` for `n <= b` and 0 beyond, with `b` the group's budget.

  This is the form of the released code, which pays `lam` at `n = b`. The paper's text has `n < b`, which would pay nothing to
  the only correct answer of a group. In a group without a correct answer every row earns 0.

  Args:
    correct: Verdicts, 0 or 1.
    lengths: `n`, the number of tokens of each response.
    lam: The offset added to the cosine, so that all rows well below the budget earn 1.
    budget: `b`: the 'median' length of the group's correct answers; in ablations their 'mean' [U], or 'fixed' for
      `fixed_budget`.
    shape: The shape of the token reward: 'cosine'; in ablations 'linear', `clip((b - n) / b + lam, 0, 1)`, or 'indicator', 1
      where `n <= b`, which the paper's ablation with a fixed budget uses.
    combine: The combination of both rewards: 'product'; in an ablation 'sum', `R_acc + R_acc * R_token`.
    fixed_budget: The number of tokens with `budget = 'fixed'` [U].
  """
  right, n = (correct > 0).astype(jnp.float32), lengths.astype(jnp.float32)
  if budget == 'median':
    b = median_budget(correct, lengths)
  elif budget == 'mean':
    b = (right * n).sum(axis=1) / jnp.maximum(right.sum(axis=1), 1.0)
  else:
    b = jnp.full(correct.shape[0], fixed_budget)
  b = b[:, None]
  used = n / jnp.maximum(b, 1.0)
  if shape == 'cosine':
    token = jnp.clip(jnp.cos(0.5 * jnp.pi * used) + lam, 0.0, 1.0)
  elif shape == 'linear':
    token = jnp.clip(1.0 - used + lam, 0.0, 1.0)
  else:
    token = jnp.ones_like(used)
  token = jnp.where(n <= b, token, 0.0)
  return right * token if combine == 'product' else right * (1.0 + token)

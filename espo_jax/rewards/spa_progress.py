"""SPA-RL: the outcome is distributed over the segments of a response by their contributions."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from espo_jax.registry import source
from espo_jax.rewards.placement import next_counted
from espo_jax.rewards.registered import register


def grounded(
  contributions: Float[Array, '...'], executed: Bool[Array, '...'], *, alpha: float, beta: float
) -> Float[Array, '...']:
  """Computes `alpha c + beta g`: the weighted contributions, and a bonus on actions that the environment could execute."""
  return alpha * contributions + beta * executed.astype(jnp.float32)


@register('spa_progress')
@source('SPA-RL, arXiv 2505.20732')
def spa_progress(
  correct: Float[Array, 'P G'],
  formatted: Bool[Array, 'P G'],
  values: Float[Array, 'P G T'],
  mask: Bool[Array, 'P G T'],
  turn: Int[Array, 'P G T'],
  *,
  alpha: float = 1.0,
  beta: float = 0.0,
  segment: int = 16,
) -> Float[Array, 'P G T']:
  """Distributes the verdict over the segments of a response, on the last token of each.

  The contribution of a segment is the rise of the critic's value up to the start of the next segment. The last segment gets the
  rest, so with `alpha = 1` and no bonus the rewards of a row sum to the verdict.

  The critic replaces the paper's estimator, which learns to sum up to the outcome [U]. Because the critic learns the return
  that is still to come, it settles at half of the outcome. Without a critic, the first segment gets the mean success and the
  last one the rest.

  Args:
    correct: Verdicts, 0 or 1.
    formatted: Whether the response is well-formed, which replaces the paper's test for an executable action [U].
    values: The value of the state that each token was drawn from.
    mask: True on the tokens that count.
    turn: The turn of each token that the policy wrote.
    alpha: The weight of the contributions [U].
    beta: The bonus on every segment of a well-formed response. It rewards length, because the number of segments is not bounded
      as an agent's turns are [U].
    segment: The number of tokens per segment; 0 for the turns of an episode, which are the paper's segments [U].
  """
  columns = jnp.arange(mask.shape[2])
  following = next_counted(mask)
  last, after = mask & (following == mask.shape[2]), jnp.minimum(following, mask.shape[2] - 1)
  is_end = columns % segment == segment - 1 if segment else jnp.take_along_axis(turn, after, axis=2) != turn
  ends = last | (mask & is_end)
  reached = jnp.where(last, correct[:, :, None], jnp.take_along_axis(values, after, axis=2))  # of the state after each token
  latest = jax.lax.cummax(jnp.where(ends, columns, -1), axis=2)
  before = jnp.pad(latest[:, :, :-1], ((0, 0), (0, 0), (1, 0)), constant_values=-1)  # the last end before each token
  start = jnp.where(before >= 0, jnp.take_along_axis(reached, jnp.maximum(before, 0), axis=2), 0.0)
  paid = grounded(reached - start, jnp.broadcast_to(formatted[:, :, None], mask.shape), alpha=alpha, beta=beta)
  return jnp.where(ends, paid, 0.0)

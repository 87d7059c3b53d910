"""SPA-RL: the outcome is handed out segment by segment, to each as much as it contributed."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from espo_jax.registry import source
from espo_jax.rewards.registered import register


def grounded(
  contributions: Float[Array, '...'], executed: Bool[Array, '...'], *, alpha: float, beta: float
) -> Float[Array, '...']:
  """`alpha c + beta g`: contributions, and a bonus for what the environment could execute."""
  return alpha * contributions + beta * executed.astype(jnp.float32)


@register('spa_progress')
@source('SPA-RL, arXiv 2505.20732')
def spa_progress(
  correct: Float[Array, 'P G'],
  formatted: Bool[Array, 'P G'],
  values: Float[Array, 'P G T'],
  mask: Bool[Array, 'P G T'],
  *,
  alpha: float = 1.0,
  beta: float = 0.0,
  segment: int = 16,
) -> Float[Array, 'P G T']:
  """Hands the verdict out over a response's segments, on the last token of each; without the bonus the sum stays the verdict.

  A segment contributes what the critic's value rises by until the next one begins, the last one what is then left. The critic
  stands in for the paper's estimator, which learns to sum up to the outcome [U]: as it learns what is still to come, it settles
  at half of it. Without a critic, the first segment gets the mean success and the last one the rest.

  Args:
    correct: Verdicts, 0 or 1.
    formatted: Whether the response is well-formed, which stands for an action that the environment could execute [U].
    values: The value of the state that each token was drawn from.
    mask: Real tokens.
    alpha: Weight of the contributions [U].
    beta: Bonus on every segment of a well-formed response. It pays for length: turns are bounded, tokens are not [U].
    segment: Tokens a segment; the paper has an agent's turns [U].
  """
  columns = jnp.arange(mask.shape[2])
  last = mask & ~jnp.pad(mask[:, :, 1:], ((0, 0), (0, 0), (0, 1)))
  ends = last | (mask & (columns % segment == segment - 1))
  reached = jnp.where(last, correct[:, :, None], jnp.roll(values, -1, axis=2))  # the value of the state after each token
  latest = jax.lax.cummax(jnp.where(ends, columns, -1), axis=2)
  before = jnp.pad(latest[:, :, :-1], ((0, 0), (0, 0), (1, 0)), constant_values=-1)  # the last end before each token
  start = jnp.where(before >= 0, jnp.take_along_axis(reached, jnp.maximum(before, 0), axis=2), 0.0)
  paid = grounded(reached - start, jnp.broadcast_to(formatted[:, :, None], mask.shape), alpha=alpha, beta=beta)
  return jnp.where(ends, paid, 0.0)

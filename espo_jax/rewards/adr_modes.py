"""Adaptive Deep Reasoning: a correct answer earns the full reward in the mode, long or short, that suits its prompt."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from espo_jax.registry import source
from espo_jax.rewards.registered import register
from espo_jax.types import takes_numpy


@takes_numpy
def short_serves(correct: Float[Array, 'P G'], reasoned: Bool[Array, 'P G'], *, delta: float = 0.05) -> Bool[Array, 'P']:
  """Returns whether a prompt's short responses lose at most `delta` of accuracy against its long ones.

  A mode without responses has accuracy 0.
  """
  long, short = reasoned.astype(jnp.float32), (~reasoned).astype(jnp.float32)

  def accuracy(mode: Float[Array, 'P G']) -> Float[Array, 'P']:
    return (correct * mode).sum(axis=1) / jnp.maximum(mode.sum(axis=1), 1.0)

  return accuracy(short) >= accuracy(long) - delta


@register('adr_modes')
@source('Adaptive Deep Reasoning, arXiv 2505.20101; its formula is not public, so this one is ours')
def adr_modes(
  correct: Float[Array, 'P G'], reasoned: Bool[Array, 'P G'], *, delta: float = 0.05, rho: float = 0.5
) -> Float[Array, 'P G']:
  """Gives a correct answer 1 in the mode that suits its prompt, and `1 - rho` in the other mode.

  The short mode suits a prompt where `short_serves` is true. The paper forces half of each group into each mode by an
  instruction; here each response chooses its mode.

  Args:
    correct: Verdicts, 0 or 1.
    reasoned: Whether the response reasons, which is the long mode.
    delta: The loss of accuracy at which the short mode still suits a prompt [U].
    rho: The cost of the other mode [U].
  """
  preferred = reasoned != short_serves(correct, reasoned, delta=delta)[:, None]
  return correct * jnp.where(preferred, 1.0, 1.0 - rho)

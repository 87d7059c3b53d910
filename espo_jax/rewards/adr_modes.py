"""Adaptive Deep Reasoning: the mode, long or short, that the prompt is served better by earns the full reward."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from espo_jax.registry import source
from espo_jax.rewards.registered import register
from espo_jax.types import takes_numpy


@takes_numpy
def short_serves(correct: Float[Array, 'P G'], reasoned: Bool[Array, 'P G'], delta: float = 0.05) -> Bool[Array, 'P']:
  """Whether a prompt's short responses are right as often as its long ones, less `delta`; a mode without any counts as 0."""
  long, short = reasoned.astype(jnp.float32), (~reasoned).astype(jnp.float32)

  def accuracy(mode: Float[Array, 'P G']) -> Float[Array, 'P']:
    return (correct * mode).sum(axis=1) / jnp.maximum(mode.sum(axis=1), 1.0)

  return accuracy(short) >= accuracy(long) - delta


@register('adr_modes')
@source('Adaptive Deep Reasoning, arXiv 2505.20101; its formula is not public, so this one is ours')
def adr_modes(
  correct: Float[Array, 'P G'], reasoned: Bool[Array, 'P G'], *, delta: float = 0.05, rho: float = 0.5
) -> Float[Array, 'P G']:
  """A right answer earns 1 in the mode that serves its prompt, `1 - rho` in the other.

  The paper forces half of each group into each mode by an instruction; here a response's mode is the one it took.

  Args:
    correct: Verdicts, 0 or 1.
    reasoned: Whether the response reasons: the long mode.
    delta: How much accuracy brevity may cost [U].
    rho: What the other mode costs [U].
  """
  preferred = reasoned != short_serves(correct, reasoned, delta)[:, None]
  return correct * jnp.where(preferred, 1.0, 1.0 - rho)

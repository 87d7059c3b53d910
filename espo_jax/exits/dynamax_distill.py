"""DYNAMAX's training of exits: a gate learns whether the exit's token is among the model's best (arXiv 2504.20922)."""

from collections.abc import Callable

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from espo_jax.exits.lessons import register_lesson
from espo_jax.registry import PositiveInt, source
from espo_jax.types import Metrics


@register_lesson('dynamax_distill')
@source('DYNAMAX, arXiv 2504.20922')
def dynamax_distill(
  gates: Float[Array, 'E N T'],
  ranks: Int[Array, 'E N T'],
  divergence: Callable[[float], Float[Array, 'E N T']],
  mean: Callable[[Float[Array, 'N T']], Float[Array, '']],
  *,
  among: PositiveInt = 5,
) -> tuple[Float[Array, ''], Metrics]:
  """Binary cross-entropy of the gates, and the divergence of the exits from the model.

      sum_e (1 - e / E) (BCE(gate_e, rank_e < among) + KL(model || exit_e)),  e = 0 .. E-1

  An exit is right where the token that it finds likeliest is among the model's likeliest. More right exits mean less imbalance
  between the classes. The paper's weights fall linearly with the depth; how far they fall is ours. Only a translator learns
  from the divergence. The paper has exits in the second half of the model (`exits.first_block`). Its heads are linear,
  feed-forward or Mamba blocks: here `exits.kind` is 'linear', 'mlp' or 'recurrence', a small gated linear recurrence in place
  of Mamba. The policy `dynamax` reads them, and copies keys and values.

  Args:
    gates: The logits of the exits' gates.
    ranks: The tokens that the model finds likelier than an exit's likeliest one.
    divergence: The function from a temperature to the exits' divergence from the model.
    mean: The mean over the tokens that count.
    among: The number of the model's likeliest tokens.
  """
  count = gates.shape[0]
  weights = 1 - jnp.arange(count)[:, None, None] / count
  right = (ranks < among).astype(jnp.float32)
  cross = optax.sigmoid_binary_cross_entropy(gates, right)
  gate, apart = (mean((weights * x).sum(0)) for x in (cross, divergence(1.0)))
  return gate + apart, {'loss/gates': gate, 'loss/divergence': apart, 'exits/right': mean(right.mean(0))}

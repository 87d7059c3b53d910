"""The entropy bonus."""

from jaxtyping import Array, Bool, Float

from espo_jax.objectives.registered import register
from espo_jax.objectives.terms import AGGREGATIONS, Aggregation, Terms
from espo_jax.registry import source
from espo_jax.types import Metrics


@register('entropy')
@source('Williams and Peng 1991; weight as ConciseR, arXiv 2505.21178, from memory')
def entropy(
  entropy: Float[Array, 'N T'],
  mask: Bool[Array, 'N T'],
  *,
  entropy_coef: float = 0.001,
  aggregation: Aggregation = 'token',
) -> tuple[Terms, Metrics]:
  """The current policy's entropy as a bonus: `loss = -entropy_coef mean_t H_t`.

  Args:
    entropy: The entropy of the current policy, in nats.
    mask: True on the tokens that count.
    entropy_coef: Weight of the bonus [U].
    aggregation: The kind of mean, as in `grpo`; by default that of the objective in the sum, or 'token' if it has none [U].
  """
  return {'entropy': (-entropy_coef, AGGREGATIONS[aggregation](entropy, mask))}, {}

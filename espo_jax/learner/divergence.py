"""The divergence between two next-token distributions, of whose logits a chunk of tokens is in memory at a time."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from espo_jax.learner.chunks import by_chunk
from espo_jax.model import ActorCritic, Params, States


def divergence(
  model: ActorCritic,
  p: tuple[Params, Float[Array, 'N W D']],
  q: tuple[Params, Float[Array, 'N W D']],
  *,
  temperature: float,
  chunk: int,
) -> Float[Array, 'N W']:
  """Computes KL(p || q) of the next-token distributions of each state, in nats.

  Args:
    model: The model.
    p: The parameters and the states of the first distribution, behind the final norm.
    q: The parameters and the states of the second distribution.
    temperature: The temperature of both distributions.
    chunk: The number of tokens whose logits are in memory at a time.
  """

  def apart(one: Float[Array, 'N C D'], other: Float[Array, 'N C D']) -> Float[Array, 'N C']:
    first, second = (
      jax.nn.log_softmax(model.logits(params, States(states, states)) / temperature)
      for params, states in ((p[0], one), (q[0], other))
    )
    return (jnp.exp(first) * (first - second)).sum(-1)

  return by_chunk(apart, chunk, p[1], q[1])

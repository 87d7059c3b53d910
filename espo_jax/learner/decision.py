"""AdaCoT's selective loss: the token that decides whether to reason learns nothing, and so keeps the boundary it was given."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


def decision_tokens(prompt_tokens: Int[Array, 'N L'], tokens: Int[Array, 'N T'], opening: int) -> Bool[Array, 'N T']:
  """True on each row's first token that follows the token `opening`, such as `<think>`, which may end the prompt."""
  follows = jnp.concatenate([prompt_tokens[:, -1:], tokens[:, :-1]], axis=1) == opening
  return follows & (jnp.cumsum(follows, axis=1) == 1)


def held(x: Float[Array, 'N T'], where: Bool[Array, 'N T']) -> Float[Array, 'N T']:
  """The same values with no gradient where they are held."""
  return jnp.where(where, jax.lax.stop_gradient(x), x)

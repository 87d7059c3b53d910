"""The tokens that get no gradient because they decide whether to reason."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


def decision_tokens(prompt_tokens: Int[Array, 'N L'], tokens: Int[Array, 'N T'], opening: int) -> Bool[Array, 'N T']:
  """Marks the first token of each row after the token `opening`, such as `<think>`, which may end the prompt.

  That token decides whether to reason. AdaCoT's selective loss (arXiv 2505.11896) gives it no gradient, so that the policy
  keeps its initial decision boundary.
  """
  follows = jnp.concatenate([prompt_tokens[:, -1:], tokens[:, :-1]], axis=1) == opening
  return follows & (jnp.cumsum(follows, axis=1) == 1)


def held(x: Float[Array, 'N T'], where: Bool[Array, 'N T']) -> Float[Array, 'N T']:
  """Returns `x` without a gradient where `where` is true."""
  return jnp.where(where, jax.lax.stop_gradient(x), x)

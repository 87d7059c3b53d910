"""The registers of what supervised learning may choose: how logits become probabilities, and what becomes of a gradient."""

from collections.abc import Callable

import jax
import optax
from jaxtyping import Array, Float

from espo_jax.registry import Method, Register, source

LIKELIHOODS: Register[Callable[[Array], Array]] = Register('likelihood', 'warm_start.loss')
GRADIENTS: Register[Callable[[], optax.GradientTransformation]] = Register('gradient', 'warm_start.gradients')


def register_likelihood(name: str) -> Callable[[Method], Method]:
  """Makes a likelihood known as `warm_start.loss`: a function from logits to the log-probabilities of all tokens.

  Raises:
    RegistryError: The name cannot be used, or the function has another parameter than `logits`.
  """
  return LIKELIHOODS.decorator(name, {'logits': 'the logits of each token, [..., V]'})


def register_gradient(name: str) -> Callable[[Method], Method]:
  """Makes a transformation of gradients known as `warm_start.gradients`. Optax applies it before the optimizer.

  Raises:
    RegistryError: The name cannot be used, or a parameter is not a keyword-only option with a default.
  """
  return GRADIENTS.decorator(name, reads={})


@register_likelihood('softmax_ce')
@source('standard')
def softmax_ce(logits: Float[Array, '... V']) -> Float[Array, '... V']:
  """Returns the log-probabilities under the softmax, which is also the distribution that tokens are sampled from."""
  return jax.nn.log_softmax(logits)

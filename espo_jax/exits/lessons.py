"""The register of lessons: what exits learn while the model itself is frozen.

A lesson is a loss over the exits of one pass of the frozen model, which reads its own responses at full depth. No gradient goes
through the model's blocks, because the streams that enter the exits do not depend on the exits' networks.
"""

from collections.abc import Callable
from typing import TypeAlias

from jaxtyping import Array, Float

from espo_jax.registry import Method, Register
from espo_jax.types import Metrics

Lesson: TypeAlias = Callable[..., tuple[Float[Array, ''], Metrics]]

# The values that a lesson's positional parameters may name. `E` exits, `N` responses of `T` tokens, and `F = E + 1`.
SEEN = {
  'gates': "the logits of the exits' gates, [E, N, T]",
  'losses': "the negative log-probabilities of the responses' tokens at each exit and, last, of the model, [F, N, T]",
  'divergence': "function from a temperature to each exit's divergence from the model, KL(model || exit) in nats, [E, N, T]",
  'ranks': "the tokens that the model finds likelier than an exit's likeliest one, [E, N, T]",
  'hidden': 'the states that the exits are read from, behind the final norm, [E, N, T, D]',
  'whole': "the model's own states behind the final norm, [N, T, D]",
  'depths': 'the share of the blocks that run at each exit and, last, without one, [F]',
  'alike': 'for each exit the number of the last exit whose translator has the same form, [E]',
  'mean': 'function from [N, T] to its mean over the tokens of the responses',
  'step': 'the number of the update; the first is 1',
}

LESSONS: Register[Lesson] = Register('lesson', 'lesson.name')


def register_lesson(name: str) -> Callable[[Method], Method]:
  """Makes a lesson known as `lesson.name`.

  Its positional parameters name values of `SEEN`. Its keyword-only parameters are options. It returns the loss and metrics.

  Raises:
    RegistryError: The name cannot be used, or a parameter names no value of `SEEN`.
  """
  return LESSONS.decorator(name, SEEN)

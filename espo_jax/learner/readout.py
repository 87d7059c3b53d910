"""What is read from the logits of each token, with a gradient that stores none of them.

A row of logits is as long as the vocabulary, so that passes over it cost time beside the matrix products. The derivative of the
results with respect to the logits is known in closed form, from the logits, their log-sum-exp and the results. So the backward
pass computes the logits once more and passes over them once.

| result, of the distribution `p` | derivative with respect to logit `j` |
|---|---|
| `log p_a` of the token `a` | `[j = a] - p_j` |
| the entropy `H` | `-p_j (log p_j + H)` |
| the divergence `K` from the reference `q` | `p_j (log p_j - log q_j - K)` |
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

Head = Callable[..., Array]


def read_tokens(
  head: Head,
  chosen: Int[Array, '*B'],
  hidden: Float[Array, '*B D'],
  others: Float[Array, '*B D'] | None = None,
  *,
  reference: Head | None = None,
) -> tuple[Float[Array, '*B'], ...]:
  """Reads the log-probability of a token, the entropy, and how the entropy changes along the token's own logit gradient.

  Log-probability, entropy and divergence have a gradient. The slope has none, and no gradient reaches the reference's arrays.

  Args:
    head: The function from states to float32 logits `[*B, V]`.
    chosen: The token of each place.
    hidden: The states that the tokens are drawn from.
    others: The states of the reference.
    reference: The function from these to the reference's logits; None for no divergence.

  Returns:
    Log-probability and entropy in nats, the slope, and with a reference the divergence of the whole distribution in nats.
  """
  own, held = jax.closure_convert(head, hidden)  # the weights become arguments, so that they have a gradient
  their, theirs = (None, []) if reference is None else jax.closure_convert(reference, others)
  return _read(own, their, (hidden, *held), (others, *theirs), chosen)


def read_under(
  likelihood: Callable[[Array], Array], head: Head, chosen: Int[Array, '*B'], hidden: Float[Array, '*B D']
) -> tuple[Float[Array, '*B'], ...]:
  """Reads what `read_tokens` does without a reference, under another likelihood than the softmax. The slope is the softmax's.

  Args:
    likelihood: The function from logits to log-probabilities.
    head: The function from states to float32 logits `[*B, V]`.
    chosen: The token of each place.
    hidden: The states that the tokens are drawn from.
  """
  return _statistics(likelihood(head(hidden)), chosen)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _read(own: Head, their: Head | None, given: Any, others: Any, chosen: Any) -> tuple[Array, ...]:
  return _forward(own, their, given, others, chosen)[0]


def _forward(own: Head, their: Head | None, given: Any, others: Any, chosen: Any) -> tuple[tuple[Array, ...], Any]:
  """Returns the results, and what the backward pass reads."""
  logprobs, total = _normalised(own(*given))
  found = _statistics(logprobs, chosen)
  if their is not None:
    reference, _ = _normalised(their(*others))
    found += ((jnp.exp(logprobs) * (logprobs - reference)).sum(-1),)
  return found, (given, others, chosen, total, found)


def _backward(own: Head, their: Head | None, kept: Any, changes: tuple[Array, ...]) -> tuple[Any, None, None]:
  """Returns the gradients of the states and of the head."""
  given, others, chosen, total, (_, entropy, _, *divergence) = kept
  logits, pull = jax.vjp(own, *given)
  logprobs = logits - total
  probs = jnp.exp(logprobs)
  of_token, of_entropy, _, *of_divergence = (x[..., None] for x in changes)
  change = of_token * (jax.nn.one_hot(chosen, logits.shape[-1]) - probs)
  change -= of_entropy * probs * (logprobs + entropy[..., None])
  if their is not None:
    reference, _ = _normalised(their(*others))
    change += of_divergence[0] * probs * (logprobs - reference - divergence[0][..., None])
  return pull(change), None, None


_read.defvjp(_forward, _backward)


def _statistics(logprobs: Float[Array, '*B V'], chosen: Int[Array, '*B']) -> tuple[Float[Array, '*B'], ...]:
  """Returns the log-probability of the token, the entropy and its slope, which has no gradient."""
  probs = jnp.exp(logprobs)
  entropy = -(probs * logprobs).sum(-1)
  # A one-hot product rather than a gather: the vocabulary may be split over devices.
  picked = (logprobs * jax.nn.one_hot(chosen, logprobs.shape[-1])).sum(-1)
  # d entropy / d logit_j = -p_j (log p_j + entropy), and the gradient of log p_a is e_a - p.
  slope = (jnp.square(probs) * (logprobs + entropy[..., None])).sum(-1) - jnp.exp(picked) * (picked + entropy)
  return picked, entropy, jax.lax.stop_gradient(slope)


def _normalised(logits: Float[Array, '*B V']) -> tuple[Float[Array, '*B V'], Float[Array, '*B 1']]:
  """Returns log-probabilities, and the log-sum-exp of the logits."""
  total = jax.nn.logsumexp(logits, axis=-1, keepdims=True)
  return logits - total, total

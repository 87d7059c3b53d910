"""The gradient of a minibatch, one micro-batch (part) at a time.

Each part's numerators are divided by the denominators of the whole minibatch, so the parts add up to one loss.

Micro-batches are exact, because every denominator is known before any numerator is computed. Objectives that rank the tokens
of a whole minibatch, such as `clip_cov` and `kl_cov`, do not split into parts: the config refuses them with micro-batches.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from espo_jax.model import Params
from espo_jax.objectives import Terms
from espo_jax.types import Metrics

PartLoss: TypeAlias = Callable[[Params, Any], tuple[Terms, Metrics]]


def gradient(loss: PartLoss, params: Params, parts: PyTree[Array]) -> tuple[Float[Array, ''], Params, Metrics]:
  """Returns the loss of all parts together, its gradient, and metrics.

  Only one part's activations are in memory at a time. A first pass computes the denominators. XLA prunes it to the masks,
  because nothing else feeds a denominator, unless the denominator of a term reads the current policy.

  Args:
    loss: The loss of one part, `(params, part) -> (terms, metrics)`.
    params: The parameters that the loss is differentiated by; None in the places of frozen ones.
    parts: The arrays of all parts, stacked along the first axis.

  Returns:
    The loss, its gradient, and metrics. The values of the terms are sums over the parts; other metrics are means.
  """
  if jax.tree.leaves(parts)[0].shape[0] == 1:
    part = jax.tree.map(lambda x: x[0], parts)
    (value, metrics), grads = jax.value_and_grad(_weighed(loss), has_aux=True)(params, part, None)
    return value, grads, metrics

  def denominators(part: PyTree[Array]) -> dict[str, Float[Array, '']]:
    return {name: term.denominator for name, (_, term) in loss(params, part)[0].items()}

  totals = jax.tree.map(lambda x: x.sum(axis=0), jax.lax.map(denominators, parts))

  def add(summed: Params, part: PyTree[Array]) -> tuple[Params, tuple[Array, Metrics]]:
    out, grads = jax.value_and_grad(_weighed(loss), has_aux=True)(params, part, totals)
    return jax.tree.map(jnp.add, summed, grads), out

  grads, (values, metrics) = jax.lax.scan(add, jax.tree.map(jnp.zeros_like, params), parts)
  of_terms = {f'loss/{name}' for name in totals}
  return values.sum(), grads, {name: x.sum() if name in of_terms else x.mean() for name, x in metrics.items()}


def _weighed(loss: PartLoss) -> Callable[..., tuple[Float[Array, ''], Metrics]]:
  """Makes a scalar loss, whose terms are divided by the given denominators, or by their own if none are given."""

  def number(params: Params, part: Any, totals: dict[str, Float[Array, '']] | None) -> tuple[Float[Array, ''], Metrics]:
    terms, metrics = loss(params, part)
    if totals is not None:
      terms = {name: (weight, term._replace(denominator=totals[name])) for name, (weight, term) in terms.items()}
    of_terms = {f'loss/{name}': jax.lax.stop_gradient(term.mean) for name, (_, term) in terms.items()}
    return sum((weight * term.mean for weight, term in terms.values()), jnp.zeros(())), metrics | of_terms

  return number

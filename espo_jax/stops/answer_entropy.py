"""Stops by the entropy of the answer that a row would give now, which falls while a row gets somewhere."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from espo_jax.registry import source
from espo_jax.stops.controller import Memory, settling_rule
from espo_jax.stops.probing import ForcedAnswer, Probing
from espo_jax.stops.registered import register
from espo_jax.stops.rule import Observation, StopRule, StopState
from espo_jax.types import takes_numpy

_SURE = 2  # probes in a row with a low entropy


@takes_numpy
def mean_entropy(answer: ForcedAnswer) -> Float[Array, 'B']:
  """Returns the mean entropy of the distributions of an answer's tokens before its end token, in nats; infinity for none."""
  counts = jnp.arange(answer.entropy.shape[1], dtype=jnp.int32)[None] < answer.content[:, None]
  mean = jnp.where(counts, answer.entropy, 0.0).sum(axis=1) / jnp.maximum(answer.content, 1).astype(answer.entropy.dtype)
  return jnp.where(answer.content > 0, mean, jnp.inf)


@takes_numpy
def slope(values: Float[Array, '*B W']) -> Float[Array, '*B']:
  """Returns the slope of the least-squares line through equally spaced values."""
  places = np.arange(values.shape[-1]) - (values.shape[-1] - 1) / 2
  return values @ jnp.asarray(places / np.square(places).sum(), values.dtype)


@register('answer_entropy')
@source('ours; the entropy after arXiv 2508.20395')
def answer_entropy(
  *,
  inducer: tuple[int, ...] = (),
  marker: tuple[int, ...] = (),
  every: int = 64,
  answer_tokens: int = 20,
  most: int = 32,
  low: float = 0.05,
  window: int = 4,
  flat: float = 0.0,
  least_probes: int = 8,
  momentum: float = 0.99,
) -> StopRule:
  """Ends a row whose answer is sure, and one whose answer does not become surer.

  A row ends once the mean entropy `H` of its forced answer is below `low` at two places in a row. It also ends once the slope
  of the last `window` entropies is at least `-flat`, from place `least_probes` on. Either way the last forced answer is its
  answer. The paper measures `H` of the true answer by another model, finds that it falls where answers are right, and gives no
  rule. The answer of the policy itself, and this rule with all its constants, are ours [I].

  Args:
    inducer: The token ids that ask for the answer.
    marker: The token ids before which the rule asks; () to ask every `every` tokens.
    every: The number of tokens between two places without a marker.
    answer_tokens: The most tokens of an answer.
    most: The most places of a row.
    low: The entropy in nats below which an answer is sure.
    window: The number of entropies whose slope is taken, at least 2.
    flat: The fall in nats per place up to which a row does not become surer.
    least_probes: The first place at which the slope is looked at, counted from 1; at least `window`.
    momentum: The momentum of the running moments of the regret.
  """
  if window < 2:
    raise ValueError(f'window = {window}: a slope needs two entropies; fix: at least 2')

  def first(batch: int) -> tuple[Array, Array]:
    return jnp.full((batch, max(window, _SURE)), jnp.inf), jnp.zeros(batch, jnp.int32)  # the last entropies, the places

  def step(row: tuple[Array, Array], seen: Observation) -> tuple[Array, Array]:
    assert seen.answer is not None  # the rule asks for it
    newest = mean_entropy(seen.answer).astype(row[0].dtype)
    return jnp.concatenate([row[0][:, 1:], newest[:, None]], axis=1), row[1] + 1

  def score(state: StopState, seen: Observation) -> Array:
    del seen
    entropies, places = state.row
    last = entropies[:, -window:]
    known = jnp.isfinite(last).all(axis=1) & (places >= least_probes)
    stuck = known & (slope(jnp.where(known[:, None], last, 0.0)) >= -flat)
    return jnp.where((entropies[:, -_SURE:] < low).all(axis=1) | stuck, 1.0, 0.0)

  probing = Probing(inducer, marker, every, answer_tokens, most)
  return settling_rule(score, 0.5, momentum, Memory(first, step), probing)

"""What a row has shown so far, as a few numbers that do not depend on how rows are scheduled."""

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from espo_jax.stops.rule import Observation

READS = frozenset({'logprobs'})  # what `step` reads on demand
_SMOOTHING = 0.9  # of the two smoothed features, which average over about ten tokens
OCTAVES = 12  # of the number of tokens: 1, 2 to 3, 4 to 7, ..., 2048 and more
_CALM = 10.0  # tokens without surprise with which the mean begins, so that a single first token says little


class Evidence(flax.struct.PyTreeNode):
  """Statistics of the tokens that a row has sampled so far."""

  tokens: Float[Array, '*B']  # their number
  first_value: Float[Array, '*B']  # the critic's value of the row's start
  value: Float[Array, '*B']  # the critic's value of the state before the newest token
  regret: Float[Array, '*B']  # the smoothed regret, nats
  most_regret: Float[Array, '*B']  # the highest regret of a token, nats
  surprise: Float[Array, '*B']  # the sum of `-log pi`, nats
  late_surprise: Float[Array, '*B']  # the smoothed `-log pi`, nats


def first(batch: int) -> Evidence:
  """Returns the evidence of rows that have sampled nothing."""
  return Evidence(*[jnp.zeros(batch)] * 7)


def step(evidence: Evidence, seen: Observation) -> Evidence:
  """Adds a token to the evidence."""
  assert seen.logprobs is not None  # `READS` names them
  new = evidence.tokens == 0
  return Evidence(
    tokens=evidence.tokens + 1,
    first_value=jnp.where(new, seen.values, evidence.first_value),
    value=seen.values,
    regret=_SMOOTHING * evidence.regret + (1 - _SMOOTHING) * seen.regret,
    most_regret=jnp.maximum(evidence.most_regret, seen.regret),
    surprise=evidence.surprise - seen.logprobs,
    late_surprise=_SMOOTHING * evidence.late_surprise - (1 - _SMOOTHING) * seen.logprobs,
  )


def at_start(evidence: Evidence) -> Evidence:
  """Returns the evidence of a fresh row of the same problem, of which only the critic's value is known."""
  blank = jnp.zeros_like(evidence.tokens)
  return Evidence(blank, evidence.first_value, evidence.first_value, blank, blank, blank, blank)


def features(evidence: Evidence) -> Float[Array, '*B F']:
  """Returns the features that a head is linear in; the first is 1.

  None depends on the horizon, on the other rows of the group or on the schedule. Regrets are on a log scale, because a single
  one may be large. The third is 0 at the start alone: all features of tokens are 0 there, which is far from any token, so a
  line through the tokens would miss the start. The last ones tell in which octave the number of tokens lies, so that means are
  right at every length: a line alone is far off at the first tokens, where a rule that compares a row with its start decides.
  """
  e = evidence
  reached = jnp.stack([e.tokens >= 2**octave for octave in range(OCTAVES)], axis=-1)
  within = reached & ~jnp.concatenate([reached[..., 1:], jnp.zeros_like(reached[..., :1])], axis=-1)
  own = jnp.stack(
    [
      jnp.ones_like(e.tokens),
      e.first_value,
      jnp.minimum(e.tokens, 1.0),
      e.value - e.first_value,
      jnp.log1p(e.regret),
      jnp.log1p(e.most_regret),
      e.surprise / (e.tokens + _CALM),
      e.late_surprise,
      jnp.log1p(e.tokens),
    ],
    axis=-1,
  )
  return jnp.concatenate([own, within.astype(own.dtype)], axis=-1)


def along(seen: Observation, begins: Int[Array, 'N']) -> Evidence:
  """Returns the evidence after each token of complete rows, with leaves `[N, T]`.

  Args:
    seen: The observations of all tokens, with leaves `[N, T, ...]`.
    begins: The first token that each row sampled; those before it were given.
  """

  def after(evidence: Evidence, column: tuple[Array, Observation]) -> tuple[Evidence, Evidence]:
    position, token = column
    stepped = step(evidence, token)
    evidence = jax.tree.map(lambda new, old: jnp.where(position >= begins, new, old), stepped, evidence)
    return evidence, evidence

  rows, columns = seen.regret.shape
  by_column = (jnp.arange(columns, dtype=jnp.int32), jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), seen))
  _, found = jax.lax.scan(after, first(rows), by_column)
  return jax.tree.map(jnp.transpose, found)

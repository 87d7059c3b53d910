"""The head of our stop rules: how likely a row is to end right, and how many tokens it has left, fitted between batches.

The head learns from rows whose own end is known, which are the rows that were not stopped and the shadow rows. A shadow row
stands for `1 / stop.shadow_share` stopped rows. Without them the head would be fitted to survivors and be far too hopeful.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from espo_jax.stops.evidence import Evidence, along, at_start, features
from espo_jax.stops.regression import FEATURES, LONGEST, Head, new_head, newton
from espo_jax.stops.rule import Adaptive, Hindsight, StopRule, StopState
from espo_jax.types import takes_numpy


class Forecast(NamedTuple):
  """What the head expects of rows.

  Attributes:
    logit: `log(p / (1 - p))`, where `p` is the probability that the row ends right.
    log_remaining: `log R`, where `R` is the mean number of tokens that the row has left.
  """

  logit: Float[Array, '*B']
  log_remaining: Float[Array, '*B']

  @property
  def success(self) -> Float[Array, '*B']:
    """The probability that the row ends right, `p`."""
    return jax.nn.sigmoid(self.logit)

  @property
  def remaining(self) -> Float[Array, '*B']:
    """The mean number of tokens that the row has left, `R`."""
    return jnp.exp(self.log_remaining)


@takes_numpy
def forecast(head: Head, evidence: Evidence) -> Forecast:
  """Returns what the head expects of rows that have shown `evidence`."""
  x = features(evidence)
  logit = _scaled(x @ head.success.weights) @ head.platt.weights
  return Forecast(logit, jnp.minimum(x @ head.remaining.weights, LONGEST))


@takes_numpy
def forecasts(head: Head, hindsight: Hindsight) -> Forecast:
  """Returns what the head expected after each token of complete rows, `[N, T]`."""
  return forecast(head, along(hindsight.seen, hindsight.begins))


@takes_numpy
def fit_head(head: Head, hindsight: Hindsight, *, memory: float, steps: int = 8) -> Head:
  """Fits the head to a batch: every token at which a row could have been stopped is a sample, and so is the row's start.

  The tokens of all rows together weigh as much as there are rows, because the tokens of a row share its verdict. So do the
  starts, from which every row is judged. A row's `t`-th token weighs as `1 / t`, so that each octave of tokens weighs the same:
  an early stop saves most.

  Args:
    head: The head before the batch.
    hindsight: The batch.
    memory: The factor by which what earlier batches left behind decays.
    steps: The Newton steps.
  """
  evidence = along(hindsight.seen, hindsight.begins)
  begun = jax.tree.map(lambda x: x[:, -1:], at_start(evidence))
  samples = jax.tree.map(lambda *parts: jnp.concatenate(parts, axis=1), begun, evidence)
  tokens = _known(hindsight) * hindsight.weight[:, None] / jnp.maximum(evidence.tokens, 1.0)
  tokens = tokens * (hindsight.weight.sum() / jnp.maximum(tokens.sum(), 1e-8))
  weight = jnp.concatenate([hindsight.weight[:, None], tokens], axis=1)
  right = jnp.broadcast_to(hindsight.correct[:, None], weight.shape).reshape(-1)
  weight = weight.reshape(-1)
  at_first = (hindsight.full_length - hindsight.begins)[:, None].astype(weight.dtype)
  left = jnp.concatenate([at_first, _left(hindsight)], axis=1).reshape(-1)
  x = features(samples).reshape(-1, FEATURES)

  success = newton(head.success, x, right, weight, memory=memory, steps=steps)
  mean = (weight * left).sum() / jnp.maximum(weight.sum(), 1e-8)
  level = head.remaining.weights.at[0].set(jnp.log(jnp.maximum(mean, 1.0)))  # so that Newton begins within its reach
  begin = head.remaining.replace(weights=jnp.where(head.batches == 0, level, head.remaining.weights))
  remaining = newton(begin, x, left, weight, poisson=True, memory=memory, steps=steps)
  platt = newton(head.platt, _scaled(x @ success.weights), right, weight, memory=memory, steps=steps)
  return Head(success, remaining, platt, head.batches + 1)


def _scaled(logit: Float[Array, '*B']) -> Float[Array, '*B 2']:
  return jnp.stack([logit, jnp.ones_like(logit)], axis=-1)


def _known(hindsight: Hindsight) -> Float[Array, 'N T']:
  """Returns 1 at the tokens after which a row could have been stopped."""
  columns = jnp.arange(hindsight.z.shape[1], dtype=jnp.int32)[None]
  return (hindsight.stoppable & (columns >= hindsight.begins[:, None])).astype(hindsight.weight.dtype)


def _left(hindsight: Hindsight) -> Float[Array, 'N T']:
  """Returns the number of tokens that a row has left after each token; 0 after its end."""
  after = jnp.arange(1, hindsight.z.shape[1] + 1, dtype=jnp.int32)[None]
  return jnp.maximum(hindsight.full_length[:, None] - after, 0).astype(hindsight.weight.dtype)


@takes_numpy
def head_calibration(expected: Forecast, hindsight: Hindsight) -> dict[str, Float[Array, '']]:
  """Returns how well a head foretold a batch that it was not fitted to, over the tokens at which rows could be stopped.

  `expected` and `right` are the mean probability and the share of right rows. `error` is the mean distance of the two within
  ten bins of the probability, and `brier` the mean squared error. `remaining` is the mean forecast of the tokens left, over
  the mean number that there were.

  Args:
    expected: The forecasts of the head after each token, `[N, T]`.
    hindsight: The batch.
  """
  weight = _known(hindsight) * hindsight.weight[:, None]
  total = jnp.maximum(weight.sum(), 1e-8)
  right = jnp.broadcast_to(hindsight.correct[:, None], weight.shape)
  bins = jax.nn.one_hot(jnp.clip((10 * expected.success).astype(jnp.int32), 0, 9), 10)
  gap = jnp.abs(jnp.einsum('nt,ntb->b', weight * (expected.success - right), bins))
  return {
    'expected': (weight * expected.success).sum() / total,
    'right': (weight * right).sum() / total,
    'error': gap.sum() / total,
    'brier': (weight * jnp.square(expected.success - right)).sum() / total,
    'remaining': (weight * expected.remaining).sum() / jnp.maximum((weight * _left(hindsight)).sum(), 1e-8),
  }


def with_head(rule: StopRule, *, memory: float = 0.9, head: Head | None = None) -> StopRule:
  """Returns the rule with a head in its state, which is fitted after each batch. The rule's decisions do not change.

  A rule that has a head keeps its own, unless `head` is given.

  Args:
    rule: The rule.
    memory: The factor by which what earlier batches left behind decays.
    head: The head that a training starts from; None for a new one.
  """
  return _with_new_head(rule, memory) if head is None else _with_head(rule, memory, head)


@functools.lru_cache
def _with_new_head(rule: StopRule, memory: float) -> StopRule:
  """Returns the same rule for equal arguments, because programs are compiled for a rule."""
  return rule if rule.init(1).adaptive.head is not None else _with_head(rule, memory, None)


def _with_head(rule: StopRule, memory: float, head: Head | None) -> StopRule:
  def init(batch: int, adaptive: Adaptive | None = None) -> StopState:
    state = rule.init(batch, adaptive)
    if adaptive is not None:
      return state
    return state.replace(adaptive=state.adaptive.replace(head=new_head() if head is None else head))

  @takes_numpy
  def adapt(
    adaptive: Adaptive, regret: Float[Array, 'N T'], mask: Bool[Array, 'N T'], stopped: Bool[Array, 'N'], hindsight: Hindsight
  ) -> Adaptive:
    assert adaptive.head is not None  # `init` sets it
    fitted = fit_head(adaptive.head, hindsight, memory=memory)
    return rule.adapt(adaptive, regret, mask, stopped, hindsight).replace(head=fitted)

  return rule._replace(init=init, adapt=adapt)

"""The protocol of a stop rule: pure functions over an explicit state, like an optax transformation."""

from collections.abc import Callable
from typing import NamedTuple

import flax.struct
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from espo_jax.types import takes_numpy


class Adaptive(flax.struct.PyTreeNode):
  """What a rule carries from batch to batch. Frozen during a rollout, so that every decision is causal; checkpointed."""

  mu: Float[Array, '']  # running mean of the surrogate regret, nats
  var: Float[Array, '']  # running variance of the surrogate regret, nats^2
  batches: Int[Array, '']  # batches the moments have seen
  beta: Float[Array, '']  # the threshold's scale, moved by the controller
  enabled: Bool[Array, '']  # False until the critic warm-up is over
  account: Float[Array, 'K'] | None = None  # of a rule that keeps one


class StopState(flax.struct.PyTreeNode):
  """What a rule carries from token to token."""

  adaptive: Adaptive
  z: Float[Array, 'B']  # the smoothed statistic, 0 before a row's first token


class Observation(NamedTuple):
  """What a rule sees of one decode step: the sampled token's regret, the state's value, and a uniform draw of its own."""

  regret: Float[Array, 'B']
  values: Float[Array, 'B']
  noise: Float[Array, 'B']


class Hindsight(NamedTuple):
  """What became of a batch's rows beyond what the rule saw: those that nobody stopped, and shadow rows.

  Attributes:
    z: The rule's score, `[N, T]`, up to each row's own end.
    full_length: Tokens up to the row's own end.
    correct: 1 where the row, not stopped, is right.
    weight: How many rows of the policy a row stands for: a shadow row for those that were stopped and did not go on.
  """

  z: Float[Array, 'N T']
  full_length: Int[Array, 'N']
  correct: Float[Array, 'N']
  weight: Float[Array, 'N']

  @property
  def stoppable(self) -> Bool[Array, 'N T']:
    """True on the tokens at which a row could have been stopped: all up to its end, but an end token."""
    horizon = self.z.shape[1]
    return (
      jnp.arange(horizon, dtype=jnp.int32)[None] < (self.full_length - (self.full_length < horizon).astype(jnp.int32))[:, None]
    )


class StopRule(NamedTuple):
  """A stop rule.

  Attributes:
    init: `(batch, adaptive=None) -> StopState`, the state before the first token; without `adaptive`, that of a fresh run.
    update: `(state, observation) -> (state, stop: bool[B], score: float[B])`; a row stops where `score > threshold`.
    threshold: `(adaptive, values) -> float`, what the score is compared with, elementwise over `values`.
    adapt: `(adaptive, regret[N, T], mask[N, T], stopped[N], hindsight) -> adaptive`, called once between batches; only a rule
      that learns from hindsight needs it.
  """

  init: Callable[..., StopState]
  update: Callable[[StopState, Observation], tuple[StopState, Array, Array]]
  threshold: Callable[[Adaptive, Array], Array]
  adapt: Callable[..., Adaptive]


Score = Callable[[StopState, Observation], Float[Array, 'B']]
Threshold = Callable[[Adaptive, Array], Array]


def running_moments(adaptive: Adaptive, regret: Float[Array, 'N T'], mask: Bool[Array, 'N T'], momentum: float) -> Adaptive:
  """Exponential mean and variance of the regret over a batch's real tokens (ESPO); the first batch sets them [U]."""
  count = jnp.maximum(mask.astype(jnp.float32).sum(), 1.0)
  mean = jnp.where(mask, regret, 0.0).sum() / count
  var = jnp.where(mask, jnp.square(regret - mean), 0.0).sum() / count
  keep = jnp.where(adaptive.batches == 0, 0.0, momentum)
  return adaptive.replace(
    mu=keep * adaptive.mu + (1 - keep) * mean,
    var=keep * adaptive.var + (1 - keep) * var,
    batches=adaptive.batches + 1,
  )


def controlled_rule(
  score: Score,
  threshold: Threshold,
  *,
  beta_0: float,
  beta_min: float,
  beta_max: float,
  eta: float,
  target_rate: float,
  momentum: float,
) -> StopRule:
  """A rule that stops where `score > threshold`, its beta steered so that a share `target_rate` of the rows stops.

  The controller (ESPO) is `beta <- clip(beta + eta (rate - target_rate), beta_min, beta_max)`, once a batch while enabled.
  """

  @takes_numpy
  def init(batch: int, adaptive: Adaptive | None = None) -> StopState:
    if adaptive is None:
      adaptive = Adaptive(
        mu=jnp.zeros(()),
        var=jnp.ones(()),
        batches=jnp.zeros((), jnp.int32),
        beta=jnp.asarray(beta_0, jnp.float32),
        enabled=jnp.asarray(False),
      )
    return StopState(adaptive, jnp.zeros(batch))

  @takes_numpy
  def update(state: StopState, obs: Observation) -> tuple[StopState, Array, Array]:
    z = score(state, obs)
    stop = state.adaptive.enabled & (z > threshold(state.adaptive, obs.values))
    return state.replace(z=z), stop, z

  @takes_numpy
  def adapt(
    adaptive: Adaptive,
    regret: Float[Array, 'N T'],
    mask: Bool[Array, 'N T'],
    stopped: Bool[Array, 'N'],
    hindsight: Hindsight | None = None,
  ) -> Adaptive:
    del hindsight
    rate = stopped.astype(jnp.float32).mean()
    moved = jnp.clip(adaptive.beta + eta * (rate - target_rate), beta_min, beta_max)
    adaptive = running_moments(adaptive, regret, mask, momentum)
    return adaptive.replace(beta=jnp.where(adaptive.enabled, moved, adaptive.beta))

  return StopRule(init, update, takes_numpy(threshold), adapt)

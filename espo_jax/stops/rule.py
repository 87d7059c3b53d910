"""The protocol of a stop rule: pure functions over an explicit state, like an optax transformation."""

from collections.abc import Callable
from typing import NamedTuple

import flax.struct
import jax.numpy as jnp
import numpy as np
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

  A training starts from `init(1).adaptive`, whose `enabled` is false: the rule stops no row until the critic's warm-up is over.
  Without a training, start from `stops.adaptive(rule, mu=..., var=...)`: with it the rule stops rows from the first token on.

  Attributes:
    init: `(batch, adaptive=None) -> StopState`, the state before the first token; without `adaptive`, that of a fresh training.
    update: `(state, observation) -> (state, stop: bool[B], score: float[B])`; a row stops where `score > threshold`.
    threshold: `(adaptive, values) -> float`, what the score is compared with, elementwise over `values`.
    adapt: `(adaptive, regret[N, T], mask[N, T], stopped[N], hindsight) -> adaptive`, called once between batches; only a rule
      that learns from hindsight needs it.
  """

  init: Callable[..., StopState]
  update: Callable[[StopState, Observation], tuple[StopState, Array, Array]]
  threshold: Callable[[Adaptive, Array], Array]
  adapt: Callable[..., Adaptive]


@takes_numpy
def adaptive(
  rule: StopRule,
  *,
  mu: Float[Array, ''] | np.floating | float = 0.0,
  var: Float[Array, ''] | np.floating | float = 1.0,
  enabled: bool = True,
) -> Adaptive:
  """What a rule starts from outside of a training: it stops rows at once, while that of `rule.init` waits for a critic.

      rule = stops.espo()
      free = generate(model, params, rule, stops.adaptive(rule, enabled=False), prompts, key, ...)  # stops no row
      mu, var = free.regret[free.mask].mean(), free.regret[free.mask].var()
      rows = generate(model, params, rule, stops.adaptive(rule, mu=mu, var=var), prompts, key, ...)

  Args:
    rule: The rule.
    mu: The mean of the surrogate regret on such prompts, nats. A rule that normalises regrets needs it and the variance.
    var: The variance of the surrogate regret, nats^2.
    enabled: Whether the rule stops rows; without it, the score is recorded all the same.
  """
  fresh = rule.init(1).adaptive
  moments = {'mu': jnp.asarray(mu, fresh.mu.dtype), 'var': jnp.asarray(var, fresh.var.dtype)}
  return fresh.replace(**moments, enabled=jnp.asarray(enabled))

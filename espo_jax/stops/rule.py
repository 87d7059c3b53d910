"""The protocol of a stop rule: pure functions over an explicit state, like an optax transformation."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from espo_jax.stops.probing import ForcedAnswer, Probing
from espo_jax.stops.regression import Hazard, Head
from espo_jax.types import StopReason, takes_numpy


class Adaptive(flax.struct.PyTreeNode):
  """The state of a rule between batches. It is constant during a rollout, so that decisions are causal, and checkpointed."""

  mu: Float[Array, '']  # running mean of the surrogate regret, nats
  var: Float[Array, '']  # running variance of the surrogate regret, nats^2
  batches: Int[Array, '']  # number of batches in the moments
  beta: Float[Array, '']  # the threshold's scale, moved by the controller
  enabled: Bool[Array, '']  # False until the critic warm-up is over
  account: Float[Array, 'K'] | None = None  # counts that some rules keep; None for the others
  head: Head | None = None  # what `with_head` fits; None for rules without a head
  hazard: Hazard | None = None  # what `with_hazard` fits; None for rules without one


class StopState(flax.struct.PyTreeNode):
  """The state of a rule between tokens."""

  adaptive: Adaptive
  z: Float[Array, 'B']  # the smoothed statistic, 0 before a row's first token
  row: Any = None  # a tree of what else the rule keeps of each row, with leaves `[B, ...]`; a new row starts with `init`'s


class Observation(NamedTuple):
  """What a rule sees of one decode step. The arrays with a default are None unless `StopRule.reads` names them.

  Attributes:
    regret: The surrogate regret of the sampled token, in nats.
    values: The critic's value of the state that the token was drawn from.
    noise: A uniform draw.
    logprobs: The token's log-probability under the sampling distribution.
    entropy: The entropy of that distribution, in nats.
    margin: The log-probability of the likeliest token minus that of the second.
    confidence: Minus the mean log-probability of the 20 likeliest tokens, in nats.
    tokens: The sampled token.
    projections: The policy's final state that the token was drawn from, projected onto `StopRule.directions` directions.
    answer: What the policy answers if it is asked now: see `StopRule.probing`.
  """

  regret: Float[Array, 'B']
  values: Float[Array, 'B']
  noise: Float[Array, 'B']
  logprobs: Float[Array, 'B'] | None = None
  entropy: Float[Array, 'B'] | None = None
  margin: Float[Array, 'B'] | None = None
  confidence: Float[Array, 'B'] | None = None
  tokens: Int[Array, 'B'] | None = None
  projections: Float[Array, 'B K'] | None = None
  answer: ForcedAnswer | None = None


class Hindsight(NamedTuple):
  """How the rows of a batch ended without a stop, which is known of rows that were not stopped and of shadow rows.

  Attributes:
    z: The rule's score of each token, up to the row's own end.
    full_length: The number of tokens up to the row's own end.
    correct: 1 where the row's whole text is correct.
    weight: The number of rows that a row represents. A shadow row represents `1 / stop.shadow_share` stopped rows, and the
      weight of the stopped rows that did not decode on is 0.
    seen: What the rule observed of each token, and its log-probability, without a uniform draw.
    begins: The first token that each row sampled; those before it were given.
  """

  z: Float[Array, 'N T']
  full_length: Int[Array, 'N']
  correct: Float[Array, 'N']
  weight: Float[Array, 'N']
  seen: Observation
  begins: Int[Array, 'N']

  @property
  def stoppable(self) -> Bool[Array, 'N T']:
    """True on the tokens at which a row could have been stopped: all tokens up to its end, except an end token."""
    horizon = self.z.shape[1]
    return (
      jnp.arange(horizon, dtype=jnp.int32)[None] < (self.full_length - (self.full_length < horizon).astype(jnp.int32))[:, None]
    )


class GroupRule(NamedTuple):
  """How a rule ends all rows of a prompt at once.

  Attributes:
    tokens: The number of tokens of each row that it reads.
    ends: `scores[P, G] -> bool[P]`, from the rule's score of the last of these tokens, or of a shorter row's last token.
  """

  tokens: int
  ends: Callable[[Float[Array, 'P G']], Bool[Array, 'P']]


class StopRule(NamedTuple):
  """A stop rule.

  Training starts from `init(1).adaptive`, whose `enabled` is false: the rule stops no row until the critic warm-up is over.
  Outside training, start from `stops.adaptive(rule, mu=..., var=...)`: then the rule stops rows from the first token on.

  Attributes:
    init: `(batch, adaptive=None) -> StopState`, the state before the first token; without `adaptive` that of a new training.
    update: `(state, observation) -> (state, stop: bool[B], score: float[B])`; a row stops where `score > threshold`.
    threshold: `(adaptive, values) -> float`, the bound that the score is compared with, elementwise over `values`.
    adapt: `(adaptive, regret[N, T], mask[N, T], stopped[N], hindsight) -> adaptive`, called once after each batch. Only rules
      that learn from `hindsight` need that argument.
    reads: The names of the arrays of `Observation` with a default that `update` reads. The engine computes no others.
    group: How the rule ends all rows of a prompt at once; None if it does not.
    reason: What a stop makes of a row: `STOPPED`, `PRUNED` where the row then leaves the batch, or `SETTLED` where its text is
      graded as it stands.
    settles: Whether a row that the rule stops has its answer. Then an evaluation grades what it has.
    probing: Where the rule asks the policy for its answer; None if it asks nowhere. `update` is then called once for each
      place, not for each token, and of the other arrays it sees zeros.
    directions: The number `K` of directions of the projections that `update` reads; 0 if it reads none.
  """

  init: Callable[..., StopState]
  update: Callable[[StopState, Observation], tuple[StopState, Array, Array]]
  threshold: Callable[[Adaptive, Array], Array]
  adapt: Callable[..., Adaptive]
  reads: frozenset[str] = frozenset()
  group: GroupRule | None = None
  reason: StopReason = StopReason.STOPPED
  settles: bool = False
  directions: int = 0
  probing: Probing | None = None


@takes_numpy
def adaptive(
  rule: StopRule,
  *,
  mu: Float[Array, ''] | np.floating | float = 0.0,
  var: Float[Array, ''] | np.floating | float = 1.0,
  enabled: bool = True,
) -> Adaptive:
  """Returns the initial state of a rule outside training. With it the rule stops rows at once; with `rule.init`'s it does not.

      rule = stops.espo()
      free = generate(model, params, rule, stops.adaptive(rule, enabled=False), prompts, key, ...)  # stops no row
      mu, var = free.regret[free.mask].mean(), free.regret[free.mask].var()
      rows = generate(model, params, rule, stops.adaptive(rule, mu=mu, var=var), prompts, key, ...)

  Args:
    rule: The rule.
    mu: The mean of the surrogate regret on such prompts, in nats. Rules that normalise regrets need it and the variance.
    var: The variance of the surrogate regret, in nats^2.
    enabled: Whether the rule stops rows. If false, the score is still recorded.
  """
  fresh = rule.init(1).adaptive
  moments = {'mu': jnp.asarray(mu, fresh.mu.dtype), 'var': jnp.asarray(var, fresh.var.dtype)}
  return fresh.replace(**moments, enabled=jnp.asarray(enabled))


def unless_nan(new: Adaptive, old: Adaptive) -> Adaptive:
  """Returns the new state of a rule, or the old one if a number of it has become nan, because no mean recovers from a nan."""
  pairs = zip(jax.tree.leaves(new), jax.tree.leaves(old), strict=True)
  poisoned = functools.reduce(jnp.logical_or, ((jnp.isnan(x) & ~jnp.isnan(was)).any() for x, was in pairs))
  return jax.tree.map(lambda x, was: jnp.where(poisoned, was, x), new, old)

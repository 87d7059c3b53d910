"""ESPO's controller. It adjusts the scale of a threshold, beta, so that a target share of the rows stops."""

import functools
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from espo_jax.stops.probing import Probing
from espo_jax.stops.rule import Adaptive, Hindsight, Observation, StopRule, StopState
from espo_jax.types import takes_numpy

Score = Callable[[StopState, Observation], Float[Array, 'B']]
Threshold = Callable[[Adaptive, Array], Array]


class Memory(NamedTuple):
  """What a rule keeps of each row beside its score.

  Attributes:
    first: `batch -> row`, a tree with leaves `[B, ...]`: the memory before a row's first token.
    step: `(row, observation) -> row`, called before the score is computed.
    reads: The names of the arrays that `step` or the score reads on demand: see `StopRule.reads`.
    directions: The number of directions of the projections among these: see `StopRule.directions`.
  """

  first: Callable[[int], Any]
  step: Callable[[Any, Observation], Any]
  reads: frozenset[str] = frozenset()
  directions: int = 0


class Control(NamedTuple):
  """The controller's constants.

  After each batch, while the rule is enabled, `beta <- clip(beta + eta (rate - target_rate), beta_min, beta_max)` (ESPO).

  Attributes:
    beta_0: The first beta, which scales the threshold.
    beta_min: The lower bound of beta.
    beta_max: The upper bound of beta.
    eta: The step size of the controller.
    target_rate: `tau`, the share of rows to stop.
    momentum: The momentum of the running moments of the regret.
  """

  beta_0: float
  beta_min: float = 0.0
  beta_max: float = 100.0
  eta: float = 0.1
  target_rate: float = 0.25
  momentum: float = 0.99


def controlled(**constants: float) -> Callable[[Callable[..., tuple[Any, ...]]], Callable[..., StopRule]]:
  """Makes a stop rule from a function of options that returns a score, a threshold and, if the rule needs one, a memory.

  The rule stops a row where the score exceeds the threshold. It has the options of the function and those of `Control`, whose
  controller adjusts beta.

  Args:
    **constants: The defaults of `Control` for this rule; `beta_0` is required.
  """
  control = Control(**constants)

  def mark(parts: Callable[..., tuple[Any, ...]]) -> Callable[..., StopRule]:
    steering = [
      inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=value, annotation=float)
      for name, value in control._asdict().items()
    ]
    own = inspect.signature(parts).parameters
    signature = inspect.Signature([*own.values(), *steering], return_annotation=StopRule)

    @functools.wraps(parts)
    def rule(**options: Any) -> StopRule:
      options = signature.bind(**options).arguments
      score, threshold, *memory = parts(**{name: value for name, value in options.items() if name in own})
      steered = control._replace(**{name: value for name, value in options.items() if name not in own})
      return controlled_rule(score, threshold, steered, *memory)

    vars(rule)['__signature__'] = signature
    rule.__doc__ = _with_control(parts.__doc__)
    return rule

  return mark


@takes_numpy
def at_beta(adaptive: Adaptive, values: Array) -> Array:
  """Returns beta as the threshold for every value of the critic."""
  return jnp.broadcast_to(adaptive.beta, values.shape)


def controlled_rule(
  score: Score, threshold: Threshold, control: Control, memory: Memory | None = None, account: Array | None = None
) -> StopRule:
  """Makes a rule that stops a row where `score > threshold`, and adjusts beta by a controller.

  Args:
    score: The score of a row after a token.
    threshold: The threshold by what the rule carries from batch to batch and by the critic's value.
    control: The controller.
    memory: What the rule remembers of a row; None for nothing.
    account: What a training starts with in `Adaptive.account`; None for a rule without one.
  """

  @takes_numpy
  def init(batch: int, adaptive: Adaptive | None = None) -> StopState:
    if adaptive is None:
      adaptive = Adaptive(
        mu=jnp.zeros(()),
        var=jnp.ones(()),
        batches=jnp.zeros((), jnp.int32),
        beta=jnp.asarray(control.beta_0, jnp.float32),
        enabled=jnp.asarray(False),
        account=account,
      )
    return StopState(adaptive, jnp.zeros(batch), None if memory is None else memory.first(batch))

  @takes_numpy
  def update(state: StopState, obs: Observation) -> tuple[StopState, Array, Array]:
    if memory is not None:
      state = state.replace(row=memory.step(state.row, obs))
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
    rows = mask.any(axis=1).astype(jnp.float32).sum()  # a problem may have fewer rows than the batch has room for
    rate = stopped.astype(jnp.float32).sum() / jnp.maximum(rows, 1.0)
    moved = jnp.clip(adaptive.beta + control.eta * (rate - control.target_rate), control.beta_min, control.beta_max)
    adaptive = running_moments(adaptive, regret, mask, control.momentum)
    return adaptive.replace(beta=jnp.where(adaptive.enabled, moved, adaptive.beta))

  rule = StopRule(init, update, takes_numpy(threshold), adapt)
  return rule if memory is None else rule._replace(reads=memory.reads, directions=memory.directions)


def settling_rule(
  score: Score, above: float, momentum: float, memory: Memory | None = None, probing: Probing | None = None
) -> StopRule:
  """Makes a rule that settles a row once its score is above a constant. With `probing` the rule reads forced answers too."""
  still = Control(above, beta_min=above, beta_max=above, eta=0.0, target_rate=0.0, momentum=momentum)
  rule = controlled_rule(score, at_beta, still, memory)._replace(settles=True, probing=probing)
  return rule if probing is None else rule._replace(reads=rule.reads | {'answer'})


def running_moments(adaptive: Adaptive, regret: Float[Array, 'N T'], mask: Bool[Array, 'N T'], momentum: float) -> Adaptive:
  """Updates the exponential mean and variance of the regret over real tokens (ESPO); the first batch initialises them [U]."""
  count = jnp.maximum(mask.astype(jnp.float32).sum(), 1.0)
  mean = jnp.where(mask, regret, 0.0).sum() / count
  var = jnp.where(mask, jnp.square(regret - mean), 0.0).sum() / count
  keep = jnp.where(adaptive.batches == 0, 0.0, momentum)
  return adaptive.replace(
    mu=keep * adaptive.mu + (1 - keep) * mean,
    var=keep * adaptive.var + (1 - keep) * var,
    batches=adaptive.batches + 1,
  )


def _with_control(docstring: str | None) -> str:
  """Returns a docstring with the entries of `Control` after its own entries."""
  own, entries = inspect.cleandoc(docstring or ''), str(inspect.getdoc(Control)).partition('Attributes:\n')[2]
  return f'{own}\n{entries}' if '\nArgs:\n' in own else f'{own}\n\nArgs:\n{entries}'

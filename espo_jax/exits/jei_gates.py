"""JEI-DNN: gates that read how sure an exit is, and that learn with the exits' classifiers (arXiv 2310.09163)."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from espo_jax.exits.lessons import register_lesson
from espo_jax.exits.policy import ExitPolicy, Observation
from espo_jax.exits.registered import register
from espo_jax.registry import PositiveInt, source
from espo_jax.types import Metrics, takes_numpy


@takes_numpy
def gate_statistics(logits: Float[Array, '... V']) -> Float[Array, '... 4']:
  """Computes what a gate reads of an exit's distribution `p`, without a gradient.

  They are the highest probability, the entropy in nats, the highest probability less the next one, and the entropy of
  `p^2 / sum p^2`.
  """
  logits = jax.lax.stop_gradient(logits.astype(jnp.float32))

  def entropy(logits: Array) -> Array:
    logprobs = jax.nn.log_softmax(logits)
    return -(jnp.exp(logprobs) * logprobs).sum(-1)

  top = jnp.exp(jax.lax.top_k(logits, 2)[0] - jax.nn.logsumexp(logits, axis=-1, keepdims=True))
  return jnp.stack([top[..., 0], entropy(logits), top[..., 0] - top[..., 1], entropy(2 * logits)], axis=-1)


@takes_numpy
def exit_probabilities(gates: Float[Array, '... E']) -> Float[Array, '... E']:
  """Computes `P_l = clip(min(g_l, 1 - sum_{j < l} g_j), 0, 1)`, the probability of exiting at each of `E` exits."""
  earlier = jnp.cumsum(gates, axis=-1) - gates
  return jnp.clip(jnp.minimum(gates, 1 - earlier), 0.0, 1.0)


@takes_numpy
def activation(gate: Float[Array, '...'], earlier: Float[Array, '...']) -> Float[Array, '...']:
  """Computes the probability of exiting here given that no earlier gate has fired, `P_l / (1 - sum_{j < l} P_j)`.

  It is 1 where the earlier gates leave nothing.

  Args:
    gate: The output of the gate, in [0, 1].
    earlier: The sum of the outputs of earlier gates.
  """
  left = jnp.clip(1 - earlier, 0.0, 1.0)
  return jnp.where(left > 0, jnp.minimum(gate, left) / jnp.where(left > 0, left, 1.0), 1.0)


@register('jei_gates')
@source('JEI-DNN, arXiv 2310.09163', 'level')
def jei_gates(*, level: float = 0.5) -> ExitPolicy:
  """Exits where the activation of a gate is at least `level`.

  A gate's output is the probability of exiting at its block. Its activation is that probability given that no earlier gate has
  fired. The paper's gates read `gate_statistics`, which `exits.kind = 'statistics'` gives them, and the lesson of the same name
  trains them.

  Args:
    level: The least activation of an exit.
  """

  @takes_numpy
  def hazard(obs: Observation, level: Float[Array, '']) -> Float[Array, 'B S']:
    return (activation(jax.nn.sigmoid(obs.logit), obs.total) >= level).astype(jnp.float32)

  return ExitPolicy(level, hazard=hazard, gated=True)


@register_lesson('jei_gates')
@source('JEI-DNN, arXiv 2310.09163', 'phase')
def jei_lesson(
  gates: Float[Array, 'E N T'],
  losses: Float[Array, 'F N T'],
  depths: Float[Array, 'F'],
  mean: Callable[[Float[Array, 'N T']], Float[Array, '']],
  step: Int[Array, ''],
  *,
  kappa: float = 0.5,
  phase: PositiveInt = 200,
) -> tuple[Float[Array, ''], Metrics]:
  """Classifiers and gates learn in turn: the classifiers where the gates exit, the gates where exiting is cheapest.

  The classifiers, which are translators in front of the model's own head (ours), minimise `sum_l P_l CE_l`, scaled at each
  token so that its value is the sum of the losses. The target of gate `l` is 1 if the cheapest exit, `argmin CE + kappa depth`,
  is `l` or an earlier one. The cross-entropy of each gate weighs both targets equally. The paper's warm-up is left out.

  Args:
    gates: The logits of the exits' gates.
    losses: The negative log-probabilities of the responses' tokens.
    depths: The share of the blocks that run at each exit.
    mean: The mean over the tokens that count.
    step: The number of the update.
    kappa: The cost of a whole pass, in nats. The paper has 0.15 to 0.7 [U].
    phase: The number of updates of the classifiers before as many of the gates.
  """
  classifying = (step - 1) // phase % 2 == 0
  found = jax.lax.stop_gradient(losses)
  taken = jnp.moveaxis(exit_probabilities(jnp.moveaxis(jax.nn.sigmoid(jax.lax.stop_gradient(gates)), 0, -1)), -1, 0)
  taken = jnp.concatenate([taken, 1 - taken.sum(0, keepdims=True)])
  scale = found.sum(0) / jnp.maximum((taken * found).sum(0), 1e-9)
  classifiers = mean((scale * taken * losses).sum(0))

  cheapest = (found + kappa * depths[:, None, None]).argmin(0)
  fired = (cheapest <= jnp.arange(len(gates))[:, None, None]).astype(jnp.float32)
  share = jax.vmap(mean)(fired)[:, None, None]
  positive, negative = (jnp.where(x > 0, 0.5 / jnp.maximum(x, 1e-9), 0.0) for x in (share, 1 - share))
  cross = -(positive * fired * jax.nn.log_sigmoid(gates) + negative * (1 - fired) * jax.nn.log_sigmoid(-gates))
  gating = mean(cross.sum(0))
  loss = jnp.where(classifying, classifiers, gating)
  return loss, {'loss/classifiers': classifiers, 'loss/gates': gating, 'exits/right': mean(fired.mean(0))}

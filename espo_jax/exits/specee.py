"""SpecEE: predictors read a few candidate tokens at each exit, and the whole head verifies what they say (arXiv 2504.08850)."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from espo_jax.exits.lessons import register_lesson
from espo_jax.exits.policy import ExitPolicy, Observation
from espo_jax.exits.registered import register
from espo_jax.registry import source
from espo_jax.types import Metrics, takes_numpy


@takes_numpy
def candidate_features(
  logits: Float[Array, '... K'], before: Float[Array, '... K']
) -> tuple[Float[Array, '... 3*K'], Float[Array, '... K']]:
  """Computes what a predictor reads of `K` candidate tokens, without a gradient, and the candidates' local softmax.

  The features are the logits, their softmax over the candidates alone, and what this softmax has gained since the last exit.

  Args:
    logits: The candidates' logits at this exit.
    before: The local softmax at the exit before this one.
  """
  logits = jax.lax.stop_gradient(logits.astype(jnp.float32))
  local = jax.nn.softmax(logits)
  return jnp.concatenate([logits, local, local - before], axis=-1), local


@register('specee')
@source('SpecEE, arXiv 2504.08850')
def specee(*, level: float = 0.5) -> ExitPolicy:
  """Exits where a predictor gives a probability above `level` and the exit's likeliest token is one of the candidates.

  The predictors are the gates of `exits.kind = 'candidates'`, and the lesson of the same name trains them. The whole LM head
  verifies a token only after a predictor has said yes to one of the batch. The paper's candidates come from a draft model. Here
  they are the likeliest tokens of the first exit (ours), at which therefore no token leaves. The paper's scheduler of
  predictors is left out: every exit is asked, and `exits.every` and `exits.first_block` say which exits there are.

  Args:
    level: The threshold on the probability of a predictor [U].
  """

  @takes_numpy
  def hazard(obs: Observation, least: Float[Array, '']) -> Float[Array, 'B S']:
    candidates = obs.candidates
    if candidates is None:
      raise ValueError("exits.policy = 'specee' reads candidate tokens, which exits have with exits.kind = 'candidates' alone")
    says = jax.nn.sigmoid(obs.logit) > least

    def verified() -> Array:
      return (candidates == obs.readout(obs.state).argmax(-1)[..., None]).any(-1)

    return (says & jax.lax.cond(says.any(), verified, lambda: jnp.zeros_like(says))).astype(jnp.float32)

  return ExitPolicy(level, hazard=hazard, gated=True)


@register_lesson('specee')
@source('SpecEE, arXiv 2504.08850')
def specee_lesson(
  gates: Float[Array, 'E N T'], ranks: Int[Array, 'E N T'], mean: Callable[[Float[Array, 'N T']], Float[Array, '']]
) -> tuple[Float[Array, ''], Metrics]:
  """Binary cross-entropy of the predictors, whose target is whether the exit's likeliest token is the model's.

  The first exit proposes the candidates and asks no predictor, so that it is left out. All other exits weigh the same (ours).

  Args:
    gates: The logits of the exits' predictors.
    ranks: The tokens that the model finds likelier than an exit's likeliest one.
    mean: The mean over the tokens that count.

  Raises:
    ValueError: There is no exit behind the first one.
  """
  if len(gates) < 2:
    raise ValueError("lesson.name = 'specee' with one exit, which proposes the candidates; fix: a lower exits.every")
  asked, right = gates[1:], (ranks[1:] == 0).astype(jnp.float32)
  loss = mean(optax.sigmoid_binary_cross_entropy(asked, right).mean(0))
  return loss, {'loss/gates': loss, 'exits/right': mean(right.mean(0))}

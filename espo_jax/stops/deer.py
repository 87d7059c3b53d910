"""DEER's stop: a row ends once the answer that it would give now is confident."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from espo_jax.registry import source
from espo_jax.stops.controller import settling_rule
from espo_jax.stops.probing import ForcedAnswer, Probing
from espo_jax.stops.registered import register
from espo_jax.stops.rule import Observation, StopRule, StopState
from espo_jax.types import takes_numpy


@takes_numpy
def answer_confidence(answer: ForcedAnswer, *, geometric: bool = False) -> Float[Array, 'B']:
  """Returns the mean probability of an answer's tokens without the first; 0 for fewer than two tokens.

  The end token counts as one, so that an answer of one word has a mean.

  Args:
    answer: The answers.
    geometric: Whether the mean is geometric instead of arithmetic.
  """
  places = jnp.arange(answer.logprobs.shape[1], dtype=jnp.int32)[None]
  counts = (places >= 1) & (places < answer.length[:, None])
  count = jnp.maximum(answer.length - 1, 1).astype(answer.logprobs.dtype)
  summed = jnp.where(counts, answer.logprobs if geometric else jnp.exp(answer.logprobs), 0.0).sum(axis=1)
  mean = jnp.exp(summed / count) if geometric else summed / count
  return jnp.where(answer.length > 1, mean, 0.0)


@register('deer')
@source('DEER, arXiv 2504.15895', 'answer_tokens', 'most', 'confidence')
def deer(
  *,
  inducer: tuple[int, ...] = (),
  marker: tuple[int, ...] = (),
  every: int = 64,
  answer_tokens: int = 20,
  most: int = 10,
  confidence: float = 0.95,
  geometric: bool = False,
  momentum: float = 0.99,
) -> StopRule:
  """Ends a row once an answer forced before `marker` has tokens of a mean probability above `confidence`.

  The paper asks at each "Wait" by the text of a final answer, takes the mean over all tokens of the answer but the first, and
  has the row write a conclusion. Here the end token counts as one of the answer, and the forced answer is the row's own [I].
  The paper's release takes a geometric mean for some models. Where no marker is given the rule asks every `every` tokens [I].

  Args:
    inducer: The token ids that ask for the answer.
    marker: The token ids before which the rule asks, such as those of "Wait".
    every: The number of tokens between two places without a marker.
    answer_tokens: The most tokens of an answer.
    most: The most places of a row.
    confidence: The mean probability above which a row ends.
    geometric: Whether the mean is geometric.
    momentum: The momentum of the running moments of the regret.
  """

  def score(state: StopState, seen: Observation) -> Array:
    del state
    assert seen.answer is not None  # the rule asks for it
    return answer_confidence(seen.answer, geometric=geometric)

  probing = Probing(inducer, marker, every, answer_tokens, most)
  return settling_rule(score, confidence, momentum, probing=probing)

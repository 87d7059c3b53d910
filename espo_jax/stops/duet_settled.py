"""DUET's settled stop: a row ends once it has begun its final answer and writes it with confidence."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from espo_jax.registry import source
from espo_jax.stops.controller import Memory, settling_rule
from espo_jax.stops.marker import is_marker, newest_tokens, with_token
from espo_jax.stops.registered import register
from espo_jax.stops.rule import Observation, StopRule, StopState

_LOOK_EVERY = 8  # tokens between two looks at what was written


@register('duet_settled')
@source('DUET, arXiv 2605.08441, its settled stop alone', 'streak', 'forgiven')
def duet_settled(
  *,
  marker: tuple[int, ...] = (),
  look_from: int = 200,
  gap: float = 0.8,
  streak: int = 5,
  forgiven: float = 0.05,
  momentum: float = 0.99,
) -> StopRule:
  """Stops a row whose answer is settled: once `marker` is written, after `streak` tokens in a row with `p_1 - p_2 > gap`.

  `p_1` and `p_2` are the probabilities of the two likeliest tokens. With probability `forgiven` the last token of a streak does
  not count. From token `look_from` on, every eighth token looks for the marker. DUET forces the end token behind such a row and
  grades it: set `stop.returns = 'graded'`; here the row ends without an end token [I]. DUET sets the gap by a problem's rank in
  the batch, from 0.5 to 0.99, and looks in the last 256 tokens from a quantile of the lengths on; here both are constants [I].

  Args:
    marker: The token ids with which a final answer begins.
    look_from: The first token at which the marker is looked for.
    gap: The difference of the probabilities above which a token counts [U].
    streak: The number of such tokens in a row.
    forgiven: The probability with which the last token of a streak does not count.
    momentum: The momentum of the running moments of the regret.
  """

  def first(batch: int) -> tuple[Array, ...]:
    blank = jnp.zeros(batch, bool)
    return newest_tokens(batch, marker), jnp.zeros(batch, jnp.int32), blank, blank, jnp.zeros(batch)  # see `step`

  def step(row: tuple[Array, ...], seen: Observation) -> tuple[Array, ...]:
    assert seen.tokens is not None  # the rule reads them
    newest, count, written, settling, sure = row  # the last tokens, their number, the marker came, it was seen, the streak
    settling = settling | (written & (count >= look_from) & (count % _LOOK_EVERY == 0))
    counts = settling & (_top_gap(seen) > gap)
    sure = jnp.where(counts, sure + 1.0, 0.0)
    sure = jnp.where((sure >= streak) & (seen.noise < forgiven), streak - 1.0, sure)
    newest = with_token(newest, seen.tokens)
    return newest, count + 1, written | is_marker(newest, marker), settling, sure

  def score(state: StopState, seen: Observation) -> Array:
    del seen
    return state.row[-1]

  return settling_rule(score, streak - 0.5, momentum, Memory(first, step, frozenset({'logprobs', 'margin', 'tokens'})))


def _top_gap(seen: Observation) -> Float[Array, 'B']:
  """Returns the difference of the probabilities of the two likeliest tokens."""
  assert seen.logprobs is not None and seen.margin is not None  # the rule reads them
  likeliest = jnp.exp(seen.regret + seen.logprobs)
  return likeliest * (1 - jnp.exp(-seen.margin))

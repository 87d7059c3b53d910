"""ARRoL: at one token, a row goes on with a probability that depends on how likely it is to end right."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from espo_jax.registry import source
from espo_jax.stops import evidence
from espo_jax.stops.controller import Control, Memory, Score, at_beta, controlled_rule
from espo_jax.stops.head import forecast, forecasts, with_head
from espo_jax.stops.registered import register
from espo_jax.stops.rule import Adaptive, Hindsight, Observation, StopRule, StopState
from espo_jax.types import takes_numpy

ARROL_BINS = 20  # of the head's probability, in which verdicts are counted
_BISECTIONS = 40
_GOES_ON = -1.0  # the score of all tokens but the one at which the rule decides


@takes_numpy
def bin_posterior(right: Float[Array, 'K'], wrong: Float[Array, 'K']) -> Float[Array, 'K']:
  """Returns the probability that a row of each bin ends right, from counts with one row added to each; 1/2 without any rows."""
  bins = right.size
  likely = (right + 1) / (right.sum() + bins), (wrong + 1) / (wrong.sum() + bins)
  rows = right.sum() + wrong.sum()
  prior = jnp.where(rows > 0, right.sum() / jnp.maximum(rows, 1e-8), 0.5)
  return prior * likely[0] / jnp.maximum(prior * likely[0] + (1 - prior) * likely[1], 1e-8)


@takes_numpy
def arrol_survival(
  posterior: Float[Array, 'K'], rows: Float[Array, 'K'], *, kept: float, balance: float, least: float, most: float
) -> Float[Array, 'K']:
  """Returns the probability `clip(kept + delta - balance q, least, most)` that a row of each bin goes on.

  `delta` is found by bisection so that `rows` go on with probability `kept` on average.

  Args:
    posterior: `q`, the probability that a row of each bin ends right.
    rows: The number of rows of each bin.
    kept: The share of rows that goes on.
    balance: How strongly the probability depends on `q`.
    least: The least probability.
    most: The highest probability.
  """
  share = jnp.where(rows.sum() > 0, rows / jnp.maximum(rows.sum(), 1e-8), 1 / rows.size)

  def chance(delta: Float[Array, '']) -> Float[Array, 'K']:
    return jnp.clip(kept + delta - balance * posterior, least, most)

  def halve(bounds: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], None]:
    middle = (bounds[0] + bounds[1]) / 2
    low = (share * chance(middle)).sum() < kept
    return (jnp.where(low, middle, bounds[0]), jnp.where(low, bounds[1], middle)), None

  reach = jnp.full((), 1.0 + balance, posterior.dtype)
  (low, high), _ = jax.lax.scan(halve, (-reach, reach), length=_BISECTIONS)
  return chance((low + high) / 2)


@register('arrol')
@source('ARRoL, arXiv 2603.24840', 'probe')
def arrol(
  *,
  probe: int = 512,
  kept: float = 0.5,
  balance: float = 0.5,
  least_kept: float = 0.1,
  most_kept: float = 0.9,
  memory: float = 0.9,
  momentum: float = 0.99,
) -> StopRule:
  """Stops a row at its token `probe` with probability `1 - clip(kept + delta - balance q, least_kept, most_kept)`.

  `q` is the probability that the row ends right, from the head's probability in 20 bins and counts of the verdicts in them.
  `delta` keeps a share `kept` of the rows on average. ARRoL drops pruned rows: set `stop.returns = 'drop'`.

  The paper writes `balance (1/2 - q)`, but `delta` absorbs the 1/2: rows that are likely to be right are pruned, whatever the
  batch lacks. `arrol_signed` is what its text describes. The paper's head is a network on the policy's state that learns from
  surviving rows; this one is that of `with_head`, to which shadow rows teach what pruned rows would have become [I]. A head
  that has seen nothing prunes at random, where the paper begins with 20 updates without pruning [I].

  Args:
    probe: The token at which a row is judged.
    kept: `kappa`, the share of judged rows that go on [U].
    balance: `lambda`, how strongly survival depends on `q` [U]; with 0 pruning is random.
    least_kept: The least probability of going on [U].
    most_kept: The highest probability of going on [U].
    memory: The factor by which what earlier batches left behind decays [U].
    momentum: The momentum of the running moments of the regret.
  """

  def score(state: StopState, seen: Observation) -> Array:
    head, account = state.adaptive.head, state.adaptive.account
    assert head is not None and account is not None  # `init` and `with_head` set them
    chance = account[2 * ARROL_BINS :][_bin(forecast(head, state.row).success)]
    return _at_probe(state, probe, seen.noise - chance)

  plain = _at_once(score, momentum)

  def init(batch: int, adaptive: Adaptive | None = None) -> StopState:
    state = plain.init(batch, adaptive)
    if adaptive is not None:
      return state
    # By bin: the right rows, the wrong rows, the probability of going on.
    account = jnp.concatenate([jnp.zeros(2 * ARROL_BINS), jnp.full(ARROL_BINS, kept)])
    return state.replace(adaptive=state.adaptive.replace(account=account))

  @takes_numpy
  def adapt(
    adaptive: Adaptive, regret: Float[Array, 'N T'], mask: Bool[Array, 'N T'], stopped: Bool[Array, 'N'], hindsight: Hindsight
  ) -> Adaptive:
    assert adaptive.head is not None and adaptive.account is not None
    at = (hindsight.begins + probe - 1)[:, None]
    within, column = at[:, 0] < hindsight.z.shape[1], jnp.minimum(at, hindsight.z.shape[1] - 1)
    could = jnp.take_along_axis(hindsight.stoppable, column, axis=1)[:, 0]
    judged = jnp.where(within & could, hindsight.weight, 0.0)
    expected = jnp.take_along_axis(forecasts(adaptive.head, hindsight).success, column, axis=1)[:, 0]
    by_bin = jax.nn.one_hot(_bin(expected), ARROL_BINS, dtype=judged.dtype)
    right = memory * adaptive.account[:ARROL_BINS] + (judged * hindsight.correct) @ by_bin
    wrong = memory * adaptive.account[ARROL_BINS : 2 * ARROL_BINS] + (judged * (1 - hindsight.correct)) @ by_bin
    chance = arrol_survival(
      bin_posterior(right, wrong), right + wrong, kept=kept, balance=balance, least=least_kept, most=most_kept
    )
    return plain.adapt(adaptive, regret, mask, stopped).replace(account=jnp.concatenate([right, wrong, chance]))

  return with_head(plain._replace(init=init, adapt=adapt), memory=memory)


@register('arrol_signed')
@source('ours; ARRoL, arXiv 2603.24840, with the sign that its text describes')
def arrol_signed(
  *,
  probe: int = 512,
  kept: float = 0.5,
  balance: float = 0.5,
  least_kept: float = 0.1,
  most_kept: float = 0.9,
  memory: float = 0.9,
  momentum: float = 0.99,
) -> StopRule:
  """Stops a row at its token `probe` so that right and wrong rows become more equal in number.

  A row goes on with probability `clip(kept + sign(1/2 - q_0) balance (q - q_0), least_kept, most_kept)`. `q` is the head's
  probability that the row ends right, and `q_0` that of a fresh row of its problem: on a hard problem likely successes go on,
  on an easy one likely failures. Without a critic all problems count as one.

  Args:
    probe: The token at which a row is judged.
    kept: The probability that a row which does as well as a fresh one goes on.
    balance: How strongly survival depends on `q - q_0`; with 0 pruning is random.
    least_kept: The least probability of going on.
    most_kept: The highest probability of going on.
    memory: The factor by which what earlier batches left behind in the head decays.
    momentum: The momentum of the running moments of the regret.
  """

  def score(state: StopState, seen: Observation) -> Array:
    head = state.adaptive.head
    assert head is not None  # `with_head` sets it
    now, fresh = forecast(head, state.row).success, forecast(head, evidence.at_start(state.row)).success
    chance = signed_survival(now, fresh, kept=kept, balance=balance, least=least_kept, most=most_kept)
    return _at_probe(state, probe, seen.noise - chance)

  return with_head(_at_once(score, momentum), memory=memory)


@takes_numpy
def signed_survival(
  now: Float[Array, '*B'], fresh: Float[Array, '*B'], *, kept: float, balance: float, least: float, most: float
) -> Float[Array, '*B']:
  """Returns the probability `clip(kept + sign(1/2 - fresh) balance (now - fresh), least, most)` that a row goes on.

  Args:
    now: The probability that the row ends right.
    fresh: The probability that a fresh row of its problem ends right.
    kept: The probability of a row that does as well as a fresh one.
    balance: How strongly the probability depends on the difference.
    least: The least probability.
    most: The highest probability.
  """
  return jnp.clip(kept + jnp.sign(0.5 - fresh) * balance * (now - fresh), least, most)


def _at_once(score: Score, momentum: float) -> StopRule:
  """Returns a rule that stops a row where the score is above 0."""
  still = Control(0.0, beta_max=0.0, eta=0.0, target_rate=0.0, momentum=momentum)
  return controlled_rule(score, at_beta, still, Memory(evidence.first, evidence.step, evidence.READS))


def _at_probe(state: StopState, probe: int, score: Float[Array, 'B']) -> Float[Array, 'B']:
  return jnp.where(state.row.tokens == probe, score, _GOES_ON)


def _bin(probability: Float[Array, '*B']) -> Array:
  return jnp.clip((ARROL_BINS * probability).astype(jnp.int32), 0, ARROL_BINS - 1)

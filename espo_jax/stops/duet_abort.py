"""DUET's abort: a row that is much longer than most rows is ended."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from espo_jax.registry import source
from espo_jax.stops.controller import Control, Memory, at_beta, controlled_rule
from espo_jax.stops.registered import register
from espo_jax.stops.rule import Adaptive, Hindsight, Observation, StopRule, StopState
from espo_jax.types import takes_numpy

_LENGTHS = 1024  # the newest lengths, of which the deadline is a quantile
_NONE = -1.0  # stands for a length that is not there
_NEVER = float('inf')  # the deadline while no length is known


@register('duet_abort')
@source('DUET, arXiv 2605.08441, its abort alone', 'quantile', 'grace', 'spared')
def duet_abort(*, quantile: float = 0.8, grace: int = 150, spared: float = 0.05, momentum: float = 0.99) -> StopRule:
  """Stops a row at token `K + grace`, where `K` is a quantile of the lengths of the last 1024 rows that were not stopped.

  A share `spared` of the rows is never stopped. DUET ends a row that has written no answer by then. This rule does not read the
  text, so it fits tasks in which the answer ends the row [I]. DUET drops such rows but counts them as failures in the group's
  statistics: set `stop.returns = 'drop'` and `advantage.baseline = 'all'`. `K` follows each batch, DUET's every tenth, and no
  row is stopped before a length is known, where DUET begins with 70 % of the horizon [I]. DUET weighs the spared rows by
  `1 / spared`, which this rule does not.

  Stopped rows do not count among the lengths, so the deadline can move down by itself while the policy stays as it is.

  Args:
    quantile: The quantile of the lengths.
    grace: The number of tokens after it.
    spared: The share of rows that is never stopped.
    momentum: The momentum of the running moments of the regret.
  """

  def first(batch: int) -> tuple[Array, Array]:
    return jnp.zeros(batch), jnp.zeros(batch, bool)  # the number of tokens, whether the row is spared

  def step(row: tuple[Array, Array], seen: Observation) -> tuple[Array, Array]:
    count, is_spared = row
    return count + 1.0, jnp.where(count == 0, seen.noise < spared, is_spared)

  def score(state: StopState, seen: Observation) -> Array:
    del seen
    count, is_spared = state.row
    return jnp.where(is_spared, 0.0, count)

  control = Control(_NEVER, beta_max=_NEVER, eta=0.0, target_rate=0.0, momentum=momentum)
  plain = controlled_rule(score, at_beta, control, Memory(first, step), account=jnp.full(_LENGTHS, _NONE))

  @takes_numpy
  def adapt(
    adaptive: Adaptive, regret: Float[Array, 'N T'], mask: Bool[Array, 'N T'], stopped: Bool[Array, 'N'], hindsight: Hindsight
  ) -> Adaptive:
    assert adaptive.account is not None  # `init` sets it
    lengths = (hindsight.full_length - hindsight.begins).astype(adaptive.account.dtype)
    known = jnp.concatenate([jnp.where(stopped | (lengths <= 0), _NONE, lengths), adaptive.account])
    account = known[jnp.argsort(known == _NONE, stable=True)][:_LENGTHS]  # the newest first
    beyond = jnp.nanquantile(jnp.where(account == _NONE, jnp.nan, account), quantile)
    deadline = jnp.where((account == _NONE).all(), _NEVER, beyond + grace - 1)  # a row of `K + grace` tokens is above it
    return plain.adapt(adaptive, regret, mask, stopped).replace(account=account, beta=deadline.astype(jnp.float32))

  return plain._replace(adapt=adapt)

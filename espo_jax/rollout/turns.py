"""The rollout over turns: the host speaks between two programs, and the rows stay on the device.

`begin` decodes the first turn of every row, and `go_on` each later one. All rows decode a turn at once, and then the host steps
their environments. A row whose episode has ended waits with the others until the last one has. Each row has a slot of its own
for the whole episode, so that its cache stays where it is: an observation is appended by one pass over its tokens alone.

| between two turns | what becomes of it |
|---|---|
| cache and state of a row | they are cut to the row's tokens, and the observation is appended |
| the stop rule's state | it goes on with the next turn, or begins anew with `reset_rule` |
| random keys | they fold in the token's column, as in one turn, so that no draw is used twice |

A row's tokens do not depend on the turns of the other rows. With one turn the rows are those of `generate`.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from espo_jax import parallel
from espo_jax.model import ActorCritic, Caches, Params, States
from espo_jax.rollout import sampling as draws
from espo_jax.rollout.engine import decode_first, decode_on, recorded
from espo_jax.rollout.progress import Row
from espo_jax.rollout.sampling import Sampling
from espo_jax.rollout.setup import Setup, Start, prefill, start_rows
from espo_jax.rollout.slots import Record, Slots, chosen_rows, spread, with_stop
from espo_jax.stops import Adaptive, StopRule
from espo_jax.types import Prompts, StopReason, Trajectories, by_a_rule

_PLAIN = Sampling()


class Turns(NamedTuple):
  """The options of episodes.

  Attributes:
    most: The most turns of an episode.
    horizon: The most tokens of a turn.
    observation: The most tokens of an observation.
    reset_rule: Whether the stop rule begins anew with each turn.
  """

  most: int
  horizon: int
  observation: int
  reset_rule: bool = False


def turns_of(environment: Any, horizon: int) -> Turns | None:
  """Returns the options of episodes by the config's section `environment`; None without an environment.

  Args:
    environment: The section.
    horizon: The most tokens of a turn where the section sets none.
  """
  if not environment.name:
    return None
  turn = environment.turn_horizon or horizon
  return Turns(environment.max_turns, turn, environment.observation_horizon, environment.reset_rule)


class Paused(flax.struct.PyTreeNode):
  """All rows between two turns. Row `n` has slot `n`."""

  slots: Slots
  record: Record
  turn: Int[Array, 'N T']  # as in `Trajectories`
  step: Int[Array, '']  # decode steps so far


class Observations(NamedTuple):
  """What the host appends to the rows before their next turn."""

  tokens: Int[Array, 'N O']
  counts: Int[Array, 'N']  # number of tokens; with 0 a row that goes on is as if its turn had not been cut
  goes_on: Bool[Array, 'N']  # False where the episode has ended


@dataclasses.dataclass(frozen=True, kw_only=True)
class Decoding:
  """What all turns of a rollout have in common. It is static: the programs are compiled for it.

  Attributes:
    model: Policy and critic, without an exit policy.
    rule: The stop rule; it judges rows, not groups.
    samples: `G`, the number of rows per prompt.
    horizon: `T`, the most tokens of a row, observations included.
    end_tokens: Token ids that end a turn.
    pad_token: The token that fills the columns after a row.
    scan_length: The most decode steps per chunk, after which decoded tokens are written out.
    mesh: The mesh that the parameters are on; None for parameters that are on none.
  """

  model: ActorCritic
  rule: StopRule
  samples: int
  horizon: int
  end_tokens: tuple[int, ...]
  pad_token: int = 0
  scan_length: int = 32
  mesh: jax.sharding.Mesh | None = None

  def setup(self, params: Params, start: Start, sampling: Sampling) -> Setup:
    """Returns the constants of a turn, in which each row has a slot."""
    return Setup(
      model=self.model,
      params=params,
      rule=self.rule,
      start=start,
      samples=self.samples,
      slots=start.first.shape[0],
      horizon=self.horizon,
      end_tokens=self.end_tokens,
      pad_token=self.pad_token,
      sampling=jax.tree.map(jnp.asarray, sampling),
      scan_length=self.scan_length,
      critic_every=1,
      turns=True,
      mesh=self.mesh if self.mesh is not None and self.mesh.size > 1 else None,
    )

  def laid(self, rows: PyTree) -> PyTree:
    """Returns rows laid out over the batch, so that programs that read them are the same after each turn."""
    return rows if self.mesh is None else jax.lax.with_sharding_constraint(rows, parallel.over_batch(self.mesh))


@functools.partial(jax.jit, static_argnames='decoding')
def begin(
  decoding: Decoding,
  params: Params,
  adaptive: Adaptive,
  prompts: Prompts,
  key: Key[Array, ''],
  *,
  turn_horizon: int | Int[Array, ''],
  sampling: Sampling = _PLAIN,
  shadow_share: float | Float[Array, ''] = 0.0,
) -> Paused:
  """Decodes the first turn of `samples` rows per prompt. All rows are decoded at once.

  Args:
    decoding: What all turns have in common.
    params: The parameters of policy and critic.
    adaptive: The state that the rule carries from batch to batch.
    prompts: `P` prompts, of which all samples are begun.
    key: This step's random key.
    turn_horizon: The most tokens of a turn.
    sampling: How logits become the distribution that is sampled.
    shadow_share: The share of rows that go on after a stop.
  """
  rows, horizon = prompts.lengths.shape[0] * decoding.samples, decoding.horizon
  keys = draws.row_keys(key, jnp.asarray(prompts.ids), decoding.samples)
  start = start_rows(
    prompts,
    *prefill(decoding.model, params, prompts),
    first=jnp.zeros(rows, jnp.int32),
    limit=jnp.full(rows, jnp.minimum(turn_horizon, horizon), jnp.int32),
    keys=keys,
    shadow=draws.shadow_rows(keys, jnp.asarray(shadow_share, jnp.float32)),
  )
  loop = decode_first(decoding.setup(params, start, sampling), adaptive)
  turn = jnp.where(jnp.arange(horizon) < loop.record.full_length[:, None], jnp.int32(0), jnp.int32(-1))
  slots = loop.slots.replace(keys=start.keys, shadow=start.shadow, given=start.given)  # those of a free slot are nobody's
  record, turn = decoding.laid((loop.record, turn))
  return Paused(slots, record, turn, loop.step)


@functools.partial(jax.jit, static_argnames=('decoding', 'reset_rule'), donate_argnames='paused')
def go_on(
  decoding: Decoding,
  params: Params,
  paused: Paused,
  prompts: Prompts,
  observed: Observations,
  number: Int[Array, ''],
  *,
  turn_horizon: int | Int[Array, ''],
  reset_rule: bool = False,
  sampling: Sampling = _PLAIN,
) -> Paused:
  """Appends observations and decodes the next turn of the rows that go on.

  Args:
    decoding: What all turns have in common.
    params: The parameters of policy and critic.
    paused: The rows after the turn before. Their buffers are donated.
    prompts: The prompts of the first turn.
    observed: The observations. Behind its observation, a row that goes on has room for a token.
    number: The number of the turn; the first is 0.
    turn_horizon: The most tokens of a turn.
    reset_rule: Whether the stop rule begins anew with each turn.
    sampling: How logits become the distribution that is sampled.
  """
  slots, record, goes_on, horizon = paused.slots, paused.record, observed.goes_on, decoding.horizon
  index = jnp.arange(goes_on.shape[0], dtype=jnp.int32)
  before, after = record.full_length, record.full_length + jnp.where(goes_on, observed.counts, 0)
  cut = by_a_rule(record.reason)  # a shadow row: its tokens count up to the stop
  row = Row(
    index=jnp.where(goes_on, index, index.size),
    length=jnp.where(cut, record.length, after),
    full_length=after,
    reason=jnp.where(cut, record.reason, StopReason.LENGTH),
    started=paused.step - after,  # so that the row's end is the decode step of its last token
    alive=goes_on,
  )
  limit = jnp.minimum(after + turn_horizon, horizon)
  start = Start(
    prompts=prompts,
    states=slots.states,
    caches=slots.caches,
    first=slots.given,
    limit=limit,
    keys=slots.keys,
    shadow=slots.shadow,
    given=slots.given,
  )
  setup = decoding.setup(params, start, sampling)
  states, caches = _read(setup, slots, record, observed)
  stop = slots.stop
  if reset_rule:
    stop = with_stop(goes_on, decoding.rule.init(index.size, stop.adaptive), stop)
  slots = slots.replace(row=row, states=states, caches=caches, stop=stop, limit=limit)
  column = jnp.arange(observed.tokens.shape[1])
  place = jnp.where(goes_on[:, None] & (column < observed.counts[:, None]), before[:, None] + column, horizon)
  tokens = record.tokens.tokens.at[index[:, None], place].set(observed.tokens, mode='drop')
  record = record.replace(tokens=record.tokens._replace(tokens=tokens))
  loop = decode_on(setup, slots, record, paused.step)
  columns = jnp.arange(horizon)
  fresh = (columns >= after[:, None]) & (columns < loop.record.full_length[:, None])
  turn = jnp.where(fresh, number, paused.turn)
  record, turn = decoding.laid((loop.record, turn))
  return Paused(loop.slots, record, turn, loop.step)


@functools.partial(jax.jit, static_argnames='samples')
def finished(paused: Paused, prompts: Prompts, done: Bool[Array, 'N'], *, samples: int) -> Trajectories:
  """Returns the rows of episodes that have all ended.

  A row counts as ended if its environment has ended the episode within the horizon. It counts as cut by the horizon if the
  policy could have gone on: after its last turn, or where the next observation does not fit.

  Args:
    paused: The rows after their last turns.
    prompts: The prompts.
    done: Whether the environment has ended each episode.
    samples: The number of rows per prompt.
  """
  record, slots, horizon = paused.record, paused.slots, paused.turn.shape[1]
  own = (record.reason == StopReason.EOS) | (record.reason == StopReason.LENGTH)
  ended = done & ((record.reason == StopReason.EOS) | (record.full_length < horizon))
  reason = jnp.where(own, jnp.where(ended, StopReason.EOS, StopReason.LENGTH), record.reason)
  rows = recorded(prompts, record.replace(reason=reason), samples, slots.shadow, slots.given)
  return rows.replace(turn=paused.turn)


def _read(setup: Setup, slots: Slots, record: Record, observed: Observations) -> tuple[States, Caches]:
  """Appends the observations to the caches; returns the states after the last token of each, and the caches."""
  known = jnp.repeat(jnp.asarray(setup.start.prompts.lengths), setup.samples) + record.full_length
  width = observed.tokens.shape[1]
  longest = jnp.where(observed.goes_on, known + width, 1).max()
  after, caches = setup.model.extend_both(setup.params, observed.tokens, slots.caches.of_lengths(known), longest)
  last = jnp.maximum(observed.counts - 1, 0)
  newest = jax.tree.map(lambda x: x[jnp.arange(last.size), last], after)
  states = chosen_rows(observed.counts > 0, newest, slots.states)
  return spread(setup, (states, caches.of_lengths(known + observed.counts)))

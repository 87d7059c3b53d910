"""The rollout: one jitted program in which a fixed number of slots decodes all rows, each slot taking a new row as one ends."""

import functools
from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from espo_jax.model import ActorCritic, Caches, Deciding, Params, States, put_rows, refill_rows, spread_rows, widen_rows
from espo_jax.rollout import sampling as draws
from espo_jax.rollout.sampling import Sampling
from espo_jax.stops import Adaptive, Observation, StopRule, StopState
from espo_jax.types import Depth, Prompts, StopReason, Trajectories

_REFILL_SHARE = 8  # an eighth of the slots is refilled at a time
_PLAIN = Sampling()


class Recorded(NamedTuple):
  """What a decode step writes down, one entry a slot or a token."""

  tokens: Int[Array, '...']
  logprobs: Float[Array, '...']
  values: Float[Array, '...']
  regret: Float[Array, '...']
  z: Float[Array, '...']
  depth: Depth | None  # of the state that the token was drawn from


class Decoding(NamedTuple):
  """How rows are decoded, by the arguments of `generate`."""

  horizon: int
  end_tokens: tuple[int, ...]
  sampling: Sampling
  exit_level: float | Float[Array, '']
  scan_length: int
  critic_every: int
  pad_token: int
  mesh: jax.sharding.Mesh | None


class Begun(flax.struct.PyTreeNode):
  """What rows begin from: row `n` takes the prompt `n // samples`, and the first of the response tokens cached behind it."""

  prompts: Prompts
  states: States  # of the token that a row's first follows, one a prompt; of no meaning where that first token is forced
  caches: Caches  # lengths are the prompts'
  first: Int[Array, 'N']  # response tokens taken over from the cache
  limit: Int[Array, 'N']  # response tokens a row may have, those among them
  keys: Key[Array, 'N']
  shadow: Bool[Array, 'N']


class _Row(flax.struct.PyTreeNode):
  """Each slot's row: which it is, and how far."""

  index: Int[Array, 'S']  # of the output; past the last one where the slot has none
  length: Int[Array, 'S']  # tokens that count
  full_length: Int[Array, 'S']  # with a shadow row's extra ones
  reason: Int[Array, 'S']
  started: Int[Array, 'S']  # the decode step at which it took the slot
  alive: Bool[Array, 'S']


class _Slots(flax.struct.PyTreeNode):
  """What the slots carry from token to token."""

  row: _Row
  keys: Key[Array, 'S']
  shadow: Bool[Array, 'S']
  given: Int[Array, 'S']  # response tokens that are not drawn
  limit: Int[Array, 'S']
  states: States  # of the newest token, from which the next is drawn
  caches: Caches
  stop: StopState


class _Output(flax.struct.PyTreeNode):
  """What is known of each row of the result."""

  record: Recorded  # [N, T] each
  length: Int[Array, 'N']
  full_length: Int[Array, 'N']
  reason: Int[Array, 'N']
  started: Int[Array, 'N']


@functools.partial(
  jax.jit,
  static_argnames=(
    'model',
    'rule',
    'samples',
    'horizon',
    'slots',
    'scan_length',
    'critic_every',
    'end_tokens',
    'pad_token',
    'mesh',
  ),
)
def generate(
  model: ActorCritic,
  params: Params,
  rule: StopRule,
  adaptive: Adaptive,
  prompts: Prompts,
  key: Key[Array, ''],
  *,
  samples: int,
  horizon: int,
  end_tokens: tuple[int, ...],
  sampling: Sampling = _PLAIN,
  exit_level: float | Float[Array, ''] = 0.0,
  shadow_share: float | Float[Array, ''] = 0.0,
  slots: int = 0,
  scan_length: int = 32,
  critic_every: int = 1,
  pad_token: int = 0,
  mesh: jax.sharding.Mesh | None = None,
) -> Trajectories:
  """Sample `samples` responses a prompt, ending each at an end token, at the stop rule's word, or at the horizon.

  The end token, like the token that triggers a stop, is kept with its log-probability. The regret is that of the distribution
  that sampled; z and the threshold are followed in the loop. The host takes no part until all rows are done.

  Args:
    model: Policy and critic.
    params: The parameters of policy and critic.
    rule: The stop rule.
    adaptive: The state that the rule carries from batch to batch, which is frozen here.
    prompts: `P` prompts; each is prefilled once for all its samples.
    key: This step's random key. Each token's own key folds in the prompt's id, the sample's index and the position.
    samples: `G`, responses a prompt.
    horizon: `T`, the most tokens a response has.
    end_tokens: Ids that end a response.
    sampling: How logits become the distribution that is sampled.
    exit_level: The level of the model's exit policy, where it has one.
    shadow_share: The share of rows that, once stopped, go on decoding for measurement only.
    slots: `S`, rows decoded at a time; 0 for all of them. Rows are taken in their order.
    scan_length: `K`, the most decode steps between two times that what was decoded is written out.
    critic_every: Tokens that a separate critic reads at a time. Between two readings the rule sees the last value; 1 is ESPO's.
    pad_token: Fills the columns after a response.
    mesh: Where the parameters lie; the slots are spread over its batch axes. None for a single device.

  Returns:
    `N = P * samples` rows, group-major.
  """
  rows = prompts.lengths.shape[0] * samples
  keys = draws.row_keys(key, jnp.asarray(prompts.ids), samples)
  begun = Begun(
    prompts,
    *prefill(model, params, prompts, min(slots or rows, rows)),
    first=jnp.zeros(rows, jnp.int32),
    limit=jnp.full(rows, horizon, jnp.int32),
    keys=keys,
    shadow=draws.shadow_rows(keys, jnp.asarray(shadow_share, jnp.float32)),
  )
  how = Decoding(horizon, end_tokens, sampling, exit_level, scan_length, critic_every, pad_token, mesh)
  return decode_rows(model, params, rule, adaptive, begun, how, samples=samples, slots=slots)[0]


def decode_rows(
  model: ActorCritic,
  params: Params,
  rule: StopRule,
  adaptive: Adaptive,
  begun: Begun,
  how: Decoding,
  *,
  samples: int,
  slots: int,
  inducer: tuple[int, ...] = (),
) -> tuple[Trajectories, Caches]:
  """Go on from what rows begin with, as in `generate`, inside a jitted program.

  Args:
    model: Policy and critic.
    params: The parameters of policy and critic.
    rule: The stop rule.
    adaptive: The state that the rule carries from batch to batch.
    begun: What the rows begin with.
    how: Everything else of `generate`.
    samples: Rows a prompt.
    slots: Rows decoded at a time; 0 for all of them.
    inducer: Tokens forced on every row behind those taken over.

  Returns:
    The rows, blank where tokens were taken over; and the caches of the slots, which are those of the rows where there is a slot
    for each: a row's columns up to its end.
  """
  horizon, end_tokens, sampling, exit_level, scan_length, critic_every, pad_token, mesh = how
  sampling = jax.tree.map(jnp.asarray, sampling)
  prompts, keys, shadow = begun.prompts, begun.keys, begun.shadow
  prompt_lengths = jnp.asarray(prompts.lengths)
  rows, width = prompt_lengths.shape[0] * samples, prompts.tokens.shape[1]
  slots = min(slots or rows, rows)
  group = critic_every if model.separate_critic else 1
  steps = -(-scan_length // group) * group
  prefilled = begun.states, begun.caches
  given = begun.first + len(inducer)

  def spread(tree: tuple[States, Caches]) -> tuple[States, Caches]:
    return tree if mesh is None else spread_rows(tree, mesh)

  def refill(carry: tuple[_Slots, Array, Array]) -> tuple[_Slots, Array]:
    """Give waiting rows to some of the free slots."""
    held, waiting, step = carry
    free = ~held.row.alive
    count = -(-slots // _REFILL_SHARE)
    order = jnp.cumsum(free, dtype=jnp.int32) - 1  # of the free slots
    index = waiting + order
    taken = free & (order < count) & (index < rows)
    index = jnp.where(taken, index, jnp.where(free, rows, held.row.index))
    row_of = jnp.minimum(index, rows - 1)
    first = begun.first[row_of]
    row = _Row(
      index=index,
      length=jnp.where(taken, first, held.row.length),
      full_length=jnp.where(taken, first, held.row.full_length),
      reason=jnp.where(taken, StopReason.LENGTH, held.row.reason),
      started=jnp.where(taken, step, held.row.started),
      alive=held.row.alive | taken,
    )
    target = jnp.nonzero(taken, size=count, fill_value=slots)[0]
    next_rows = jnp.minimum(waiting + jnp.arange(count), rows - 1)
    states, caches = spread(
      refill_rows(held.states, held.caches, prefilled, next_rows // samples, target, begun.first[next_rows])
    )
    its = (keys[row_of], shadow[row_of], given[row_of], begun.limit[row_of])
    new = _Slots(row, *its, states, caches, _restart(rule, held.stop, taken))
    return new, waiting + taken.sum(dtype=jnp.int32)

  def policy_step(held: _Slots, _: None) -> tuple[_Slots, tuple[Recorded, Array, Array]]:
    """Draw a token in every slot, and read it."""
    row = held.row
    noise = draws.token_noise(held.keys, row.full_length, 2 if model.exits is None else 3)
    logits = draws.sampled_logits(model.logits(params, held.states), sampling)
    values = model.values(params, held.states)
    tokens, logprobs, regret = draws.draw(logits, noise[:, 0], draws.is_greedy(sampling))
    if inducer:
      place = jnp.clip(row.full_length - held.given, -len(inducer), -1)  # from the inducer's end
      tokens = jnp.where(row.full_length < held.given, jnp.asarray(inducer, jnp.int32)[place], tokens)
    stop_state, stop, z = rule.update(held.stop, Observation(regret, values, noise[:, 1]))

    counts = row.alive & (row.reason != StopReason.STOPPED)  # False in a shadow row's extra steps
    ended = row.alive & functools.reduce(jnp.logical_or, [tokens == end for end in end_tokens])
    stopped = counts & stop & ~ended
    full_length = row.full_length + row.alive
    alive = row.alive & ~ended & ~(stopped & ~held.shadow) & (full_length < held.limit)
    longest = jnp.where(alive, held.caches.policy.lengths + 1, 1).max()
    deciding = None
    if model.exits is not None:
      level = jnp.asarray(exit_level, jnp.float32)
      deciding = Deciding(row.full_length[:, None], noise[:, 2:], alive[:, None], level)
    once = jnp.ones_like(tokens)
    states, caches = model.extend_policy(params, tokens[:, None], once, held.states, held.caches, longest, deciding)
    new_row = row.replace(
      length=row.length + counts,
      full_length=full_length,
      reason=jnp.where(counts & ended, StopReason.EOS, jnp.where(stopped, StopReason.STOPPED, row.reason)),
      alive=alive,
    )
    where = (jnp.where(row.alive, row.index, rows), row.full_length)
    new = held.replace(row=new_row, states=states, caches=caches, stop=stop_state)
    return new, (Recorded(tokens, logprobs, values, regret, z, held.states.depth), *where)

  def decode(held: _Slots) -> tuple[_Slots, tuple[Recorded, Array, Array]]:
    """`group` tokens a slot, and one reading by a separate critic."""
    held, (record, index, position) = jax.lax.scan(policy_step, held, None, length=group)
    if model.separate_critic:
      longest = jnp.where(index[0] < rows, held.caches.policy.lengths, 1).max()  # of rows alive before the group
      counts = jnp.full(slots, group, jnp.int32)
      hidden, caches = model.extend_critic(params, record.tokens.T, counts, held.caches, longest)
      held = held.replace(states=held.states.replace(critic=hidden[:, -1]), caches=caches)
      later = model.values(params, States(hidden[:, :-1], hidden[:, :-1]))
      record = record._replace(values=jnp.concatenate([record.values[:1], later.T]))
    return held, (record, index, position)

  def write_down(output: _Output, held: _Slots, done: Array, buffer: tuple[Recorded, Array, Array]) -> _Output:
    record, index, position = buffer
    index = jnp.where(jnp.arange(steps)[:, None] < done, index, rows)  # the rest of the buffer is of an earlier time
    row = held.row
    return _Output(
      record=jax.tree.map(lambda old, new: old.at[index, position].set(new), output.record, record),
      length=output.length.at[row.index].set(row.length),
      full_length=output.full_length.at[row.index].set(row.full_length),
      reason=output.reason.at[row.index].set(row.reason),
      started=output.started.at[row.index].set(row.started),
    )

  def chunk(carry: tuple[_Slots, Array, Array, _Output, tuple]) -> tuple[_Slots, Array, Array, _Output, tuple]:
    held, waiting, step, output, buffer = carry
    held, waiting = refill((held, waiting, step))

    def goes_on(inner: tuple[Array, _Slots, tuple]) -> Array:
      done, held, _ = inner
      idle = (waiting < rows) & ~held.row.alive.all()  # a slot could take a row
      return (done < steps) & held.row.alive.any() & ~idle

    def advance(inner: tuple[Array, _Slots, tuple]) -> tuple[Array, _Slots, tuple]:
      done, held, buffer = inner
      held, new = decode(held)
      buffer = jax.tree.map(lambda old, x: jax.lax.dynamic_update_slice_in_dim(old, x, done, axis=0), buffer, new)
      return done + group, held, buffer

    done, held, buffer = jax.lax.while_loop(goes_on, advance, (jnp.zeros((), jnp.int32), held, buffer))
    return held, waiting, step + done, write_down(output, held, done, buffer), buffer

  def unfinished(carry: tuple[_Slots, Array, Array, _Output, tuple]) -> Array:
    return carry[0].row.alive.any() | (carry[1] < rows)

  zero = jnp.zeros((), jnp.int32)
  none = jnp.zeros(slots, jnp.int32)
  nobody = _Row(index=none + rows, length=none, full_length=none, reason=none, started=none, alive=none > 0)
  states = jax.tree.map(lambda x: jnp.zeros((slots, *x.shape[1:]), x.dtype), prefilled[0])
  # A group's last tokens may lie past a row's end; they are read like the others.
  states, caches = spread((states, model.init_caches(slots, width + -(-horizon // group) * group)))
  held = _Slots(nobody, keys[none], nobody.alive, none, none, states, caches, rule.init(slots, adaptive))

  def blank(*shape: int) -> Recorded:
    depth = None if model.exits is None else Depth(jnp.zeros(shape, jnp.int32), jnp.zeros(shape))
    logprobs, values, regret, z = (jnp.zeros(shape) for _ in range(4))
    return Recorded(jnp.full(shape, pad_token, jnp.int32), logprobs, values, regret, z, depth)

  output = _Output(blank(rows, horizon), *(jnp.zeros(rows, jnp.int32) for _ in range(4)))
  buffer = (blank(steps, slots), jnp.zeros((steps, slots), jnp.int32), jnp.zeros((steps, slots), jnp.int32))
  held, _, _, output, _ = jax.lax.while_loop(unfinished, chunk, (held, zero, zero, output, buffer))
  trajectories = Trajectories(
    prompt_tokens=jnp.repeat(prompts.tokens, samples, axis=0),
    prompt_lengths=jnp.repeat(prompt_lengths, samples),
    length=output.length,
    full_length=output.full_length,
    stop_reason=output.reason,
    shadow=shadow & (output.reason == StopReason.STOPPED),
    started=output.started,
    trained_from=given,
    **output.record._asdict(),
  )
  return trajectories, held.caches


def _restart(rule: StopRule, state: StopState, taken: Bool[Array, 'S']) -> StopState:
  """The rule's state with that of the slots `taken` as before a first token."""
  fresh = rule.init(taken.shape[0], state.adaptive)

  def choose(new: Array, old: Array) -> Array:
    return jnp.where(taken.reshape(-1, *(1,) * (old.ndim - 1)), new, old)

  per_row = jax.tree.map(choose, fresh.replace(adaptive=None), state.replace(adaptive=None))
  return per_row.replace(adaptive=state.adaptive)


def prefill(model: ActorCritic, params: Params, prompts: Prompts, at_a_time: int) -> tuple[States, Caches]:
  """The states of the prompts' last tokens and caches of their columns, `at_a_time` prompts at a time."""
  count, width = prompts.tokens.shape
  lengths = jnp.asarray(prompts.lengths)
  from_right = (jnp.arange(width) + width - lengths[:, None]) % width  # padded on the left there, on the right here
  tokens = jnp.take_along_axis(jnp.asarray(prompts.tokens), from_right, axis=1)
  parts = -(-count // at_a_time)
  at_a_time = -(-count // parts)
  padding = parts * at_a_time - count
  tokens, lengths = jnp.pad(tokens, ((0, padding), (0, 0))), jnp.pad(lengths, (0, padding), constant_values=1)

  def part(i: Array, done: tuple[States, Caches]) -> tuple[States, Caches]:
    start = i * at_a_time
    some, many = (jax.lax.dynamic_slice_in_dim(x, start, at_a_time) for x in (tokens, lengths))
    return put_rows(done, model.prefill(params, some, many), start)

  first = model.prefill(params, tokens[:at_a_time], lengths[:at_a_time])
  if parts == 1:
    return first
  return jax.lax.fori_loop(1, parts, part, widen_rows(first, parts))

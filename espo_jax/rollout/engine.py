"""The rollout engine: one jitted program in which a fixed number of slots decodes all rows by continuous batching."""

import dataclasses
import functools

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from espo_jax import stops
from espo_jax.model import ActorCritic, Caches, Deciding, Params, States
from espo_jax.rollout import sampling as draws
from espo_jax.rollout.endings import Token, advanced, judge
from espo_jax.rollout.features import entropy, features
from espo_jax.rollout.groups import end_groups
from espo_jax.rollout.processors import Processor
from espo_jax.rollout.progress import TokenRecord
from espo_jax.rollout.reuse import Reuse, reused, verify
from espo_jax.rollout.sampling import Sampling
from espo_jax.rollout.setup import Setup, prefill, slot_count, start_rows
from espo_jax.rollout.slots import (
  Pending,
  Record,
  Slots,
  chosen_rows,
  empty_pending,
  empty_slots,
  first_record,
  refill,
  with_stop,
  write_out,
)
from espo_jax.stops import Adaptive, StopRule
from espo_jax.types import Features, Prompts, Trajectories, by_a_rule

_PLAIN = Sampling()


class Loop(flax.struct.PyTreeNode):
  """The carry of the engine's loop over chunks."""

  slots: Slots
  next_row: Int[Array, '']  # the place in the queue of the first row that no slot has taken
  step: Int[Array, '']  # decode steps so far
  record: Record  # the rows as far as they are written out
  pending: Pending  # buffer for the tokens that a chunk decodes


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
    'reuse',
    'processor',
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
  directions: Float[Array, 'D K'] | None = None,
  pad_token: int = 0,
  reuse: Reuse | None = None,
  processor: Processor | None = None,
  mesh: jax.sharding.Mesh | None = None,
) -> Trajectories:
  """Samples `samples` responses per prompt. A response ends at an end token, at a stop by the stop rule, or at the horizon.

  The end token and the token that triggers a stop are kept. The regret is that of the sampling distribution. The host waits.

  Args:
    model: Policy and critic.
    params: The parameters of policy and critic.
    rule: The stop rule.
    adaptive: The state that the rule carries from batch to batch; constant during the rollout.
    prompts: `P` prompts; each is prefilled once for all its samples.
    key: This step's random key. Each token's own key folds in the prompt's id, the sample's index and the position.
    samples: `G`, the number of responses per prompt.
    horizon: `T`, the most tokens of a response.
    end_tokens: Token ids that end a response.
    sampling: How logits become the distribution that is sampled.
    exit_level: The level of the model's exit policy; unused without one.
    shadow_share: The share of rows that go on decoding after a stop.
    slots: `S`, the number of rows decoded at a time; 0 for all of them. Slots take rows in order.
    scan_length: `K`, the most decode steps per chunk, after which decoded tokens are written out.
    critic_every: The number of tokens that a separate critic reads at a time. Meanwhile the rule sees its last value.
    directions: Orthonormal directions; with them the rows have `features`. None records no features.
    pad_token: The token that fills the columns after a response.
    reuse: How `prompts.drafts` are verified; None without drafts.
    processor: The change of the logits of each token; None for none.
    mesh: The mesh that the parameters are on; slots are split over its batch axes. None for a single device.

  Returns:
    `N = P * samples` rows, group-major.

  Raises:
    ValueError: The prompts have drafts although `reuse` is None, or `verify` refuses them.
  """
  if reuse is None and prompts.drafts is not None:
    raise ValueError('reuse = None, but the prompts have drafts; fix: say by reuse how they are verified, or drafts = None')
  rows = prompts.lengths.shape[0] * samples
  keys = draws.row_keys(key, jnp.asarray(prompts.ids), samples)
  start = start_rows(
    prompts,
    *prefill(model, params, prompts, exit_level),
    first=jnp.zeros(rows, jnp.int32),
    limit=jnp.full(rows, horizon, jnp.int32),
    keys=keys,
    shadow=draws.shadow_rows(keys, jnp.asarray(shadow_share, jnp.float32)),
  )
  setup = Setup(
    model=model,
    params=params,
    rule=rule,
    start=start,
    samples=samples,
    slots=slot_count(slots, rows),
    horizon=horizon,
    end_tokens=end_tokens,
    pad_token=pad_token,
    sampling=sampling,
    scan_length=scan_length,
    critic_every=critic_every,
    exit_level=exit_level,
    directions=directions,
    candidates=0 if reuse is None else reuse.recorded(model.config.vocab_size),
    processor=processor,
    mesh=mesh,
  )
  if reuse is None:
    return decode_rows(setup, adaptive)[0]
  setup, scored = verify(setup, adaptive, reuse)
  return decode_rows(setup, adaptive)[0].replace(reused=reused(setup, reuse, scored))


def decode_rows(setup: Setup, adaptive: Adaptive) -> tuple[Trajectories, Caches]:
  """Decodes all rows from their starting states. The function is called inside a jitted program.

  Args:
    setup: The constants of the rollout: the model, the options, and where each row starts.
    adaptive: The state that the rule carries from batch to batch.

  Returns:
    The rows, which are blank where response tokens were kept from the cache; and the caches of the slots. With one slot per
    row these are the rows' caches, which hold the columns of each row up to its end.
  """
  loop = decode_first(setup, adaptive)
  start = setup.start
  return recorded(start.prompts, loop.record, setup.samples, start.shadow, start.given), loop.slots.caches


def decode_first(setup: Setup, adaptive: Adaptive) -> Loop:
  """Decodes all rows from their starting states, and returns the end of the loop: see `decode_rows`."""
  setup = dataclasses.replace(setup, sampling=jax.tree.map(jnp.asarray, setup.sampling))  # the defaults are Python numbers
  zero = jnp.zeros((), jnp.int32)
  slots = empty_slots(setup, adaptive)
  loop = Loop(slots=slots, next_row=zero, step=zero, record=first_record(setup), pending=empty_pending(setup))
  return jax.lax.while_loop(functools.partial(unfinished, setup), functools.partial(chunk, setup), loop)


def decode_on(setup: Setup, slots: Slots, record: Record, step: Int[Array, '']) -> Loop:
  """Decodes the rows that have slots to their limits, and returns the end of the loop. No row waits for a slot.

  Args:
    setup: The constants of the rollout.
    slots: The slots, of which those that are not alive stay as they are.
    record: The rows so far.
    step: The number of decode steps so far.
  """
  none_waits = jnp.full((), setup.rows, jnp.int32)
  loop = Loop(slots=slots, next_row=none_waits, step=step, record=record, pending=empty_pending(setup))
  return jax.lax.while_loop(functools.partial(unfinished, setup), functools.partial(decode_chunk, setup), loop)


def recorded(prompts: Prompts, record: Record, samples: int, shadow: Bool[Array, 'N'], given: Int[Array, 'N']) -> Trajectories:
  """Returns the rows as far as they are written out.

  Args:
    prompts: The prompts.
    record: The rows.
    samples: The number of rows per prompt.
    shadow: Whether each row goes on decoding after a stop.
    given: The number of response tokens per row that are not drawn.
  """
  return Trajectories(
    prompt_tokens=jnp.repeat(prompts.tokens, samples, axis=0),
    prompt_lengths=jnp.repeat(jnp.asarray(prompts.lengths), samples),
    length=record.length,
    full_length=record.full_length,
    stop_reason=record.reason,
    shadow=shadow & by_a_rule(record.reason),
    started=record.started,
    trained_from=given,
    **record.tokens._asdict(),
  )


def unfinished(setup: Setup, loop: Loop) -> Bool[Array, '']:
  """Returns whether a row is being decoded or waits for a slot."""
  return loop.slots.row.alive.any() | (loop.next_row < setup.queued)


def chunk(setup: Setup, loop: Loop) -> Loop:
  """Refills the slots, decodes a chunk of tokens, and writes them out."""
  slots, next_row = refill(setup, loop.slots, loop.next_row, loop.step)
  return decode_chunk(setup, loop.replace(slots=slots, next_row=next_row))


def decode_chunk(setup: Setup, loop: Loop) -> Loop:
  """Decodes a chunk of tokens, and writes them out.

  A chunk ends when a slot is free and a row waits, when `pending` is full, or when no row is alive. So the schedule is greedy
  list scheduling: rows are taken in order, each by the first slot that is free.
  """
  next_row = loop.next_row

  def goes_on(inner: tuple[Array, Slots, Pending]) -> Array:
    done, slots, _ = inner
    idle = (next_row < setup.queued) & ~slots.row.alive.all()  # a slot could take a row
    return (done < setup.steps) & slots.row.alive.any() & ~idle

  def advance(inner: tuple[Array, Slots, Pending]) -> tuple[Array, Slots, Pending]:
    done, slots, pending = inner
    slots, new = decode_group(setup, slots)
    pending = jax.tree.map(lambda old, x: jax.lax.dynamic_update_slice_in_dim(old, x, done, axis=0), pending, new)
    return done + setup.group, slots, pending

  done, slots, pending = jax.lax.while_loop(goes_on, advance, (jnp.zeros((), jnp.int32), loop.slots, loop.pending))
  step = loop.step + done
  record = write_out(setup, loop.record, slots, pending, done)
  if setup.rule.group is not None:
    record, slots = end_groups(setup, record, slots)
  return Loop(slots=slots, next_row=next_row, step=step, record=record, pending=pending)


def decode_group(setup: Setup, slots: Slots) -> tuple[Slots, Pending]:
  """Decodes a group of tokens in every slot. A separate critic, if there is one, reads them in one pass."""
  slots, new = jax.lax.scan(lambda slots, _: decode_token(setup, slots), slots, None, length=setup.group)
  return critic_reads(setup, slots, new) if setup.model.separate_critic else (slots, new)


def decode_token(setup: Setup, slots: Slots) -> tuple[Slots, Pending]:
  """Draws a token in every slot, applies the stop rule to it, and runs the policy on it."""
  model, row = setup.model, slots.row
  noise = draws.token_noise(slots.keys, row.full_length, 2 if model.exits is None else 3)
  logits = draws.sampled_logits(_processed(setup, slots, model.logits(setup.params, slots.states)), setup.sampling)
  values = model.values(setup.params, slots.states)
  tokens, logprobs = draws.draw(logits, noise[:, 0], draws.is_greedy(setup.sampling))
  if slots.correction is not None:
    corrected = row.full_length == slots.correction.column
    tokens = jnp.where(corrected, slots.correction.token, tokens)
    own = jax.lax.cond(corrected.any(), draws.logprobs_of, lambda *_: logprobs, logits, tokens)
    logprobs = jnp.where(corrected, own, logprobs)
  regret = stops.surrogate_regret(logits, tokens)
  tokens = _induced(setup, slots, tokens)
  token = Token(logits, tokens, logprobs, values, regret, noise, slots.states.policy)
  judged = judge(setup, row, slots.stop, slots.shadow, slots.limit, token)
  reads = row.alive if setup.turns else judged.alive  # the next turn of a row reads the token that ends this one
  states, caches = _policy_reads(setup, slots, tokens, reads, noise)
  if setup.turns:
    states = chosen_rows(reads, states, slots.states)  # a row that waits may go on in a later turn without an observation
  new_row = advanced(setup, row, judged)
  seen = Features(entropy(logits)) if setup.entropies else None
  if setup.directions is not None:
    seen = features(logits, slots.states.policy, setup.directions)
  likely = draws.likeliest(logits, setup.candidates) if setup.candidates else None
  record = TokenRecord(tokens, logprobs, values, regret, judged.z, slots.states.depth, seen, likely)
  new = Pending(record, row=jnp.where(row.alive, row.index, setup.rows), column=_column(setup, slots))
  if setup.processor is not None:
    slots = slots.replace(processed=setup.processor.observe(slots.processed, tokens))
  stop = with_stop(row.alive, judged.stop, slots.stop) if setup.turns else judged.stop
  return slots.replace(row=new_row, states=states, caches=caches, stop=stop), new


def critic_reads(setup: Setup, slots: Slots, new: Pending) -> tuple[Slots, Pending]:
  """Runs a separate critic on the tokens of a group.

  Args:
    setup: The constants of the rollout.
    slots: The slots after the group.
    new: The tokens of the group. All carry the critic's value from before the group, which the stop rule saw.

  Returns:
    The slots with the critic's newest states, and the tokens with the value of the state that each was drawn from.
  """
  model, tokens = setup.model, new.tokens.tokens
  alive = new.row[0] < setup.rows  # before the group
  longest = jnp.where(alive, slots.caches.policy.lengths, 1).max()
  counts = jnp.full(setup.slots, setup.group, jnp.int32)
  hidden, caches = model.extend_critic(setup.params, tokens.T, counts, slots.caches, longest)
  critic = hidden[:, -1]
  if setup.turns:
    critic = chosen_rows(alive, critic, slots.states.critic)
  slots = slots.replace(states=slots.states.replace(critic=critic), caches=caches)
  later = model.values(setup.params, States(hidden[:, :-1], hidden[:, :-1]))
  values = jnp.concatenate([new.tokens.values[:1], later.T])
  return slots, new._replace(tokens=new.tokens._replace(values=values))


def _processed(setup: Setup, slots: Slots, logits: Float[Array, 'S V']) -> Float[Array, 'S V']:
  """Returns the logits that the processor makes of those of the model."""
  return logits if setup.processor is None else setup.processor.process(slots.processed, logits, slots.row.full_length)


def _induced(setup: Setup, slots: Slots, tokens: Int[Array, 'S']) -> Int[Array, 'S']:
  """Replaces the drawn tokens by the next inducer token in rows that have not read the whole inducer."""
  inducer, written = setup.inducer, slots.row.full_length
  if not inducer:
    return tokens
  place = jnp.clip(written - slots.given, -len(inducer), -1)  # negative: counted from the end of the inducer
  return jnp.where(written < slots.given, jnp.asarray(inducer, jnp.int32)[place], tokens)


def _column(setup: Setup, slots: Slots) -> Int[Array, 'S']:
  """Returns the column of the output in which the next token of each slot is recorded; the one behind the last for none."""
  if setup.drawn is None:
    return slots.row.full_length
  behind = slots.row.full_length - slots.given
  return jnp.where(behind < 0, setup.drawn, behind)


def _policy_reads(
  setup: Setup, slots: Slots, tokens: Int[Array, 'S'], reads: Bool[Array, 'S'], noise: Float[Array, 'S U']
) -> tuple[States, Caches]:
  """Returns the policy's states after `tokens`. Rows not in `reads` may attend to a part of their columns.

  The third uniform decides the exits of the rows in `reads`.
  """
  model, position = setup.model, slots.row.full_length
  longest = jnp.where(reads, slots.caches.policy.lengths + 1, 1).max()
  deciding = None
  if slots.states.depth is not None:
    level, route = jnp.asarray(setup.exit_level, jnp.float32), slots.states.depth.route
    deciding = Deciding(position[:, None], noise[:, 2:], reads[:, None], level, None if route is None else route[:, None])
  once = jnp.ones_like(tokens)
  return model.extend_policy(setup.params, tokens[:, None], once, slots.states, slots.caches, longest, deciding)

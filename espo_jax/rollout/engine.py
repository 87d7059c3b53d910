"""The rollout: one jitted call, a `while_loop` of short scans that ends when every row has ended."""

import functools
from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from espo_jax.model import ActorCritic, Caches, Params, States, repeat_samples
from espo_jax.rollout import sampling
from espo_jax.stops import Adaptive, Observation, StopRule, StopState, surrogate_regret
from espo_jax.types import Prompts, StopReason, Trajectories


class Recorded(NamedTuple):
  """What a decode step writes down, one entry a row."""

  tokens: Int[Array, '...']
  logprobs: Float[Array, '...']
  values: Float[Array, '...']
  regret: Float[Array, '...']
  z: Float[Array, '...']


class _Carry(flax.struct.PyTreeNode):
  states: States  # of the newest token, from which the next is drawn
  caches: Caches
  stop: StopState
  length: Int[Array, 'N']  # tokens that count
  full_length: Int[Array, 'N']  # with a shadow row's extra ones
  reason: Int[Array, 'N']
  alive: Bool[Array, 'N']  # still decoding
  step: Int[Array, '']


@functools.partial(jax.jit, static_argnames=('model', 'rule', 'samples', 'horizon', 'scan_length', 'end_tokens', 'pad_token'))
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
  temperature: float | Float[Array, ''] = 1.0,
  shadow_share: float | Float[Array, ''] = 0.0,
  scan_length: int = 16,
  pad_token: int = 0,
) -> Trajectories:
  """Sample `samples` responses a prompt, ending each at an end token, at the stop rule's word, or at the horizon.

  The end token, like the token that triggers a stop, is kept with its log-probability. The regret is that of the logits that
  sampled; z and the threshold are followed in the loop. All rows share the decode step: refilling finished rows would take the
  place of the `while_loop`'s body.

  Args:
    model: Policy and critic.
    params: Their parameters.
    rule: The stop rule.
    adaptive: Its batch-to-batch state, frozen here.
    prompts: `P` prompts; each is prefilled once for all its samples.
    key: Of this step. Each token's own key folds in the prompt's id, the sample's index and the position.
    samples: `G`, responses a prompt.
    horizon: `T`, the most tokens a response has.
    end_tokens: Ids that end a response.
    temperature: Traced, so that another value does not compile again; 0 is greedy.
    shadow_share: The share of rows that, once stopped, go on decoding for measurement only.
    scan_length: `K`, decode steps between two looks at whether every row has ended.
    pad_token: Fills the columns after a response.

  Returns:
    `N = P * samples` rows, group-major.
  """
  temperature = jnp.asarray(temperature, jnp.float32)
  width = prompts.tokens.shape[1]
  chunks = -(-horizon // scan_length)
  keys = sampling.row_keys(key, jnp.asarray(prompts.ids), samples)
  is_shadow = sampling.shadow_rows(keys, jnp.asarray(shadow_share, jnp.float32))
  prompt_lengths = jnp.repeat(prompts.lengths, samples)
  rows = keys.shape[0]

  states, caches = _prefill(model, params, prompts, width + chunks * scan_length)
  states, caches = repeat_samples(states, caches, samples)
  carry = _Carry(
    states=states,
    caches=caches,
    stop=rule.init(rows, adaptive),
    length=jnp.zeros(rows, jnp.int32),
    full_length=jnp.zeros(rows, jnp.int32),
    reason=jnp.full(rows, StopReason.LENGTH, jnp.int32),
    alive=jnp.ones(rows, bool),
    step=jnp.zeros((), jnp.int32),
  )
  shape = (chunks * scan_length, rows)
  record = Recorded(jnp.zeros(shape, jnp.int32), *(jnp.zeros(shape) for _ in Recorded._fields[1:]))

  def decode_step(carry: _Carry, noise: Float[Array, 'N 2']) -> tuple[_Carry, Recorded]:
    logits = sampling.tempered(model.logits(params, carry.states), temperature)
    values = model.values(params, carry.states)
    tokens, logprobs = sampling.draw(logits, noise[:, 0], temperature)
    regret = surrogate_regret(logits, tokens)
    stop_state, stop, z = rule.update(carry.stop, Observation(regret, values, noise[:, 1]))

    counts = carry.alive & (carry.reason != StopReason.STOPPED)  # False in a shadow row's extra steps
    ended = carry.alive & functools.reduce(jnp.logical_or, [tokens == end for end in end_tokens])
    stopped = counts & stop & ~ended
    full_length = carry.full_length + carry.alive
    reason = jnp.where(counts & ended, StopReason.EOS, jnp.where(stopped, StopReason.STOPPED, carry.reason))
    alive = carry.alive & ~ended & ~(stopped & ~is_shadow) & (full_length < horizon)

    states, caches = model.states(
      params,
      tokens[:, None],
      (prompt_lengths + carry.step)[:, None],
      carry.alive[:, None],
      carry.caches,
    )
    new = _Carry(
      states=jax.tree.map(lambda x: x[:, 0], states),
      caches=caches,
      stop=stop_state,
      length=carry.length + counts,
      full_length=full_length,
      reason=reason,
      alive=alive,
      step=carry.step + 1,
    )
    return new, Recorded(tokens, logprobs, values, regret, z)

  def decode_chunk(loop: tuple[_Carry, Recorded]) -> tuple[_Carry, Recorded]:
    carry, record = loop
    start = carry.step
    carry, new = jax.lax.scan(decode_step, carry, sampling.token_noise(keys, start, scan_length))
    return carry, jax.tree.map(lambda old, x: jax.lax.dynamic_update_slice_in_dim(old, x, start, axis=0), record, new)

  carry, record = jax.lax.while_loop(lambda loop: loop[0].alive.any(), decode_chunk, (carry, record))

  written = jnp.arange(horizon) < carry.full_length[:, None]
  record = Recorded(*(jnp.where(written, x.T[:, :horizon], 0) for x in record))
  return Trajectories(
    prompt_tokens=jnp.repeat(prompts.tokens, samples, axis=0),
    prompt_lengths=prompt_lengths,
    length=carry.length,
    full_length=carry.full_length,
    stop_reason=carry.reason,
    shadow=is_shadow & (carry.reason == StopReason.STOPPED),
    **record._replace(tokens=jnp.where(written, record.tokens, pad_token))._asdict(),
  )


def _prefill(model: ActorCritic, params: Params, prompts: Prompts, columns: int) -> tuple[States, Caches]:
  """Run the prompts once; return the states of their last tokens and caches of `columns` columns."""
  count, width = prompts.tokens.shape
  offset = jnp.arange(width) - (width - prompts.lengths[:, None])
  tokens, empty = jnp.asarray(prompts.tokens), model.init_caches(count, columns)
  states, caches = model.states(params, tokens, jnp.maximum(offset, 0), offset >= 0, empty)
  return jax.tree.map(lambda x: x[:, -1], states), caches

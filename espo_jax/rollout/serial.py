"""S-GRPO's serial rollout: one full response per prompt, and early exits that answer from cuts of its thinking part.

One program decodes twice. The full responses come first, all at once, because their caches are kept. Then come the early
exits: a slot copies the columns before a cut, reads the inducer one token per step, and decodes an answer. The mask excludes
the tokens that a row was given (`Trajectories.trained_from`), and token counts include sampled tokens only.
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from espo_jax.model import ActorCritic, Caches, Params
from espo_jax.rollout import sampling as draws
from espo_jax.rollout.engine import decode_rows
from espo_jax.rollout.sampling import Sampling
from espo_jax.rollout.setup import Setup, Start, prefill, slot_count, start_rows
from espo_jax.stops import Adaptive, StopRule
from espo_jax.types import Prompts, StopReason, Trajectories, takes_numpy

_CUT = 0xFFFF_FFFE  # no token has this position; its draw decides where a response is cut
_PLAIN = Sampling()


class Serial(NamedTuple):
  """The options of early exits.

  Attributes:
    inducer: The tokens that follow a cut and ask for the answer; at least one.
    answer_tokens: The most tokens of an answer.
    end_of_thinking: The token that ends the thinking part; -1 where the whole response is the thinking part.
  """

  inducer: tuple[int, ...]
  answer_tokens: int
  end_of_thinking: int = -1


@functools.partial(
  jax.jit,
  static_argnames=(
    'model',
    'rule',
    'serial',
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
def generate_serial(
  model: ActorCritic,
  params: Params,
  rule: StopRule,
  adaptive: Adaptive,
  prompts: Prompts,
  key: Key[Array, ''],
  *,
  serial: Serial,
  samples: int,
  horizon: int,
  end_tokens: tuple[int, ...],
  sampling: Sampling = _PLAIN,
  slots: int = 0,
  scan_length: int = 32,
  critic_every: int = 1,
  pad_token: int = 0,
  mesh: jax.sharding.Mesh | None = None,
) -> Trajectories:
  """Samples groups of `samples - 1` early exits, in the order of their cuts, and the full response (S-GRPO, arXiv 2505.07686).

  An early exit copies the cache columns before its cut and recomputes nothing. Then it reads the inducer and decodes an answer.
  Only tokens that a row sampled itself are trained on; the paper leaves that open [U]. The full response equals sample 0 of
  `generate`. The cut and answer of an exit depend on the full response and on the exit's own key, not on the number of exits.

  Args:
    model: Policy and critic, without an exit policy.
    params: The parameters of policy and critic.
    rule: A stop rule that never stops a row; its statistic is recorded.
    adaptive: The state that the rule carries from batch to batch.
    prompts: `P` prompts.
    key: This step's random key.
    serial: The options of early exits.
    samples: `G`, the number of rows per prompt, at least 2.
    horizon: `T`, the most tokens of a row, inducer included.
    end_tokens: Token ids that end a response; the inducer must not contain any.
    sampling: The temperature and truncation of all rows.
    slots: The number of early exits decoded at a time; 0 for all of them. The full responses are decoded all at once.
    scan_length: The most decode steps per chunk, after which decoded tokens are written out.
    critic_every: The number of tokens that a separate critic reads at a time.
    pad_token: The token that fills the columns after a response.
    mesh: The mesh that the parameters are on; None for a single device.

  Returns:
    `N = P * G` rows, group-major. `started` counts decode steps from the first full response on, also for early exits.
  """
  count, exits = prompts.lengths.shape[0], samples - 1
  keys = draws.row_keys(key, jnp.asarray(prompts.ids), samples).reshape(count, samples)
  states, prompt_caches = prefill(model, params, prompts)
  whole = Setup(
    model=model,
    params=params,
    rule=rule,
    start=start_rows(
      prompts,
      states,
      prompt_caches,
      first=jnp.zeros(count, jnp.int32),
      limit=jnp.full(count, horizon, jnp.int32),
      keys=keys[:, 0],
      shadow=jnp.zeros(count, bool),
    ),
    samples=1,
    slots=count,
    horizon=horizon,
    end_tokens=end_tokens,
    pad_token=pad_token,
    sampling=sampling,
    scan_length=scan_length,
    critic_every=critic_every,
    mesh=mesh,
  )
  paths, caches = decode_rows(whole, adaptive)
  start, cuts = _cut(whole.start, paths, caches, keys, serial, horizon)
  slots = slot_count(slots, count * exits)
  cut = dataclasses.replace(whole, start=start, samples=exits, slots=slots, inducer=serial.inducer)
  early, _ = decode_rows(cut, adaptive)
  return _grouped(early, paths, cuts)


def _cut(
  start: Start, paths: Trajectories, caches: Caches, keys: Key[Array, 'P G'], serial: Serial, horizon: int
) -> tuple[Start, Int[Array, 'P E']]:
  """Returns where the early exits start.

  Args:
    start: Where the full responses started.
    paths: The full responses, one per prompt.
    caches: The caches of the full responses.
    keys: The keys of the samples; the first one of a prompt is the full response's.
    serial: The options of early exits.
    horizon: The most tokens of a row.

  Returns:
    Where the early exits start, and the number of response tokens before each cut, in ascending order.
  """
  count, exits = keys.shape[0], keys.shape[1] - 1
  uniform = jax.vmap(jax.vmap(lambda k: jax.random.uniform(jax.random.fold_in(k, _CUT))))(keys[:, 1:])
  order = jnp.argsort(uniform, axis=1)
  room = horizon - len(serial.inducer) - serial.answer_tokens
  cuts = cut_positions(jnp.take_along_axis(uniform, order, axis=1), thinking_tokens(paths, serial.end_of_thinking), room)
  ordered = keys[jnp.arange(count)[:, None], 1 + order]
  limit = cuts + len(serial.inducer) + serial.answer_tokens
  shortened = caches.of_lengths(jnp.asarray(start.prompts.lengths))
  rows = count * exits
  own = {
    'shadow': jnp.zeros(rows, bool),
    'first': cuts.reshape(rows),
    'limit': limit.reshape(rows),
    'keys': ordered.reshape(rows),
  }
  return start_rows(start.prompts, start.states, shortened, inducer=serial.inducer, **own), cuts


def _grouped(early: Trajectories, paths: Trajectories, cuts: Int[Array, 'P E']) -> Trajectories:
  """Joins early exits and full responses to groups. Exits get the tokens before their cut and the first pass's decode steps."""
  (count, exits), horizon = cuts.shape, paths.tokens.shape[1]
  columns = jnp.arange(horizon)
  shared, sampled = columns < cuts.reshape(-1, 1), columns >= early.trained_from[:, None]
  own = {name: jnp.where(sampled, getattr(early, name), 0.0) for name in ('logprobs', 'values', 'regret', 'z')}
  early = early.replace(
    tokens=jnp.where(shared, jnp.repeat(paths.tokens, exits, axis=0), early.tokens),
    started=early.started + paths.full_length.max(),
    **own,
  )

  def together(some: Array, last: Array) -> Array:
    groups = (x.reshape(count, -1, *x.shape[1:]) for x in (some, last))
    return jnp.concatenate(list(groups), axis=1).reshape(count * (exits + 1), *last.shape[1:])

  return jax.tree.map(together, early, paths)


def thinking_tokens(paths: Trajectories, end_of_thinking: int) -> Int[Array, 'P']:
  """Counts the thinking tokens per response: up to its first `end_of_thinking`, else up to its end token, else all."""
  ends = paths.mask & (paths.tokens == end_of_thinking)
  written = paths.length - (paths.stop_reason == StopReason.EOS)
  return jnp.where(ends.any(axis=1), ends.argmax(axis=1), written).astype(jnp.int32)


def cut_positions(uniform: Float[Array, 'P E'], thinking: Int[Array, 'P'], room: int) -> Int[Array, 'P E']:
  """Draws the number of response tokens before each cut, uniformly over the positions that leave room for an answer.

  Args:
    uniform: Uniform draws in [0, 1).
    thinking: The number of tokens of each thinking part.
    room: The most response tokens before a cut.
  """
  positions = jnp.minimum(thinking, room + 1)[:, None]
  return jnp.clip((uniform * positions).astype(jnp.int32), 0, jnp.maximum(positions - 1, 0))


@takes_numpy
def row_steps(rows: Trajectories, *, parts: int, samples: int, slots: int, inducer: int) -> Int[Array, '']:
  """Counts the executed slot steps (decode steps times slots) of `parts` consecutive serial rollouts.

  Args:
    rows: The rows of all parts.
    parts: The number of rollouts.
    samples: The number of rows per group.
    slots: The number of early exits decoded at a time; 0 for all of a part.
    inducer: The number of inducer tokens, each of which takes one step.
  """
  copied = jnp.maximum(rows.trained_from - inducer, 0)
  ends = (rows.started + rows.full_length - copied).reshape(parts, -1, samples)
  path_steps = ends[:, :, -1].max(axis=1)
  early_steps = ends[:, :, :-1].max(axis=(1, 2)) - path_steps
  prompts = ends.shape[1]
  exits = prompts * (samples - 1)
  return (path_steps * prompts + early_steps * min(slots or exits, exits)).sum()

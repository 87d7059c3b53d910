"""Decodes full responses, and from their caches the answers that the policy would have given on the way.

A probe reads a copy of the columns before its place, so it changes nothing of the row. All rows are decoded to their own ends
first. A rule that settles rows by their probes then takes the first that satisfies it, and what it cuts off was decoded for the
comparison alone, as with a shadow row.
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, Key

from espo_jax.model import ActorCritic, Caches, Params
from espo_jax.rollout import sampling as draws
from espo_jax.rollout.engine import decode_rows
from espo_jax.rollout.sampling import Sampling
from espo_jax.rollout.setup import Setup, prefill, queue_of, slot_count, start_rows
from espo_jax.stops import ForcedAnswer, Probing, never
from espo_jax.types import Prompts, StopReason, Trajectories, takes_numpy

_OF_TOKENS = ('tokens', 'logprobs', 'values', 'regret', 'z')
_PLAIN, _GREEDY = Sampling(), Sampling(temperature=0.0)


class Probed(NamedTuple):
  """Full responses and their probes.

  Attributes:
    rows: The `N` responses, which no rule stopped.
    places: The number of tokens before each of the `E` places of a row, in ascending order; the horizon where there is none.
    answers: The answer at each place; empty where there is no place.
  """

  rows: Trajectories
  places: Int[Array, 'N E']
  answers: ForcedAnswer


@functools.partial(
  jax.jit,
  static_argnames=(
    'model',
    'probing',
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
def generate_probed(
  model: ActorCritic,
  params: Params,
  prompts: Prompts,
  key: Key[Array, ''],
  *,
  probing: Probing,
  samples: int,
  horizon: int,
  end_tokens: tuple[int, ...],
  sampling: Sampling = _PLAIN,
  slots: int = 0,
  scan_length: int = 32,
  critic_every: int = 1,
  pad_token: int = 0,
  mesh: jax.sharding.Mesh | None = None,
) -> Probed:
  """Samples responses as `generate` does without a stop rule, and asks at each place of a row for its answer.

  Args:
    model: Policy and critic, without an exit policy.
    params: The parameters of policy and critic.
    prompts: `P` prompts.
    key: This step's random key.
    probing: Where and how answers are asked for.
    samples: `G`, the number of responses per prompt.
    horizon: `T`, the most tokens of a response. An answer may lie beyond it.
    end_tokens: Token ids that end a response or an answer; the inducer must not contain any.
    sampling: How the logits of responses become the distribution that is sampled. Answers are greedy.
    slots: The number of probes decoded at a time; 0 for as many as responses. The responses are decoded all at once.
    scan_length: The most decode steps per chunk, after which decoded tokens are written out.
    critic_every: The number of tokens that a separate critic reads at a time.
    pad_token: The token that fills the columns after a response.
    mesh: The mesh that the parameters are on; None for a single device.

  Returns:
    `N = P * samples` rows, group-major, with their probes.

  Raises:
    ValueError: The inducer is empty, or the model has an exit policy.
  """
  if not probing.inducer or model.exits is not None:
    raise ValueError(f'{probing}: it needs an inducer, and a model without an exit policy; fix: token ids, or exits = None')
  rule, rows = never(), prompts.lengths.shape[0] * samples
  keys = draws.row_keys(key, jnp.asarray(prompts.ids), samples)
  begins = start_rows(
    prompts,
    *prefill(model, params, prompts),
    first=jnp.zeros(rows, jnp.int32),
    limit=jnp.full(rows, horizon, jnp.int32),
    keys=keys,
    shadow=jnp.zeros(rows, bool),
  )
  whole = Setup(
    model=model,
    params=params,
    rule=rule,
    start=begins,
    samples=samples,
    slots=rows,
    horizon=horizon + probing.tokens,
    end_tokens=end_tokens,
    pad_token=pad_token,
    sampling=sampling,
    scan_length=scan_length,
    critic_every=critic_every,
    mesh=mesh,
  )
  adaptive = rule.init(1).adaptive
  paths, caches = decode_rows(whole, adaptive)
  paths = paths.replace(**{name: getattr(paths, name)[:, :horizon] for name in _OF_TOKENS})
  places = probe_places(paths.tokens, paths.length, probing)
  asked = _asked(whole, caches, places, probing, horizon, slots)
  return Probed(paths, places, _answers(decode_rows(asked, adaptive)[0], probing, rows))


def _asked(whole: Setup, caches: Caches, places: Int[Array, 'N E'], probing: Probing, horizon: int, slots: int) -> Setup:
  """Returns the rollout of the probes: each row keeps the columns before its place, and reads the inducer."""
  begins = whole.start
  rows = begins.prompts, begins.states
  repeated, states = jax.tree.map(lambda x: jnp.repeat(jnp.asarray(x), whole.samples, axis=0), rows)
  first = jnp.where(places < horizon, places, 0).reshape(-1)
  start = start_rows(
    repeated,
    states,
    caches.of_lengths(jnp.asarray(repeated.lengths)),
    first=first,
    limit=first + probing.tokens,
    keys=jnp.repeat(begins.keys, probing.most),
    shadow=jnp.zeros(first.shape, bool),
    inducer=probing.inducer,
  )
  return dataclasses.replace(
    whole,
    start=start.replace(queue=queue_of((places < horizon).reshape(-1))),
    samples=probing.most,
    slots=slot_count(slots or whole.rows, first.size),
    drawn=probing.answer_tokens,
    sampling=_GREEDY,
    inducer=probing.inducer,
    entropies=True,
  )


@takes_numpy
def probe_places(tokens: Int[Array, 'N T'], length: Int[Array, 'N'], probing: Probing) -> Int[Array, 'N E']:
  """Returns the number of tokens before each place of a row, at least 1; `T` where there is no further place."""
  horizon, size = tokens.shape[1], len(probing.marker)
  columns = jnp.arange(horizon, dtype=jnp.int32)
  if size:
    ahead = jnp.pad(tokens, ((0, 0), (0, size - 1)), constant_values=-1)
    found = jnp.stack([ahead[:, i : i + horizon] == token for i, token in enumerate(probing.marker)]).all(axis=0)
  else:
    found = jnp.broadcast_to(columns % probing.every == 0, tokens.shape)
  found = found & (columns > 0) & (columns + max(size, 1) <= length[:, None])
  ordered = jnp.sort(jnp.where(found, columns, horizon), axis=1)
  return jnp.pad(ordered, ((0, 0), (0, probing.most)), constant_values=horizon)[:, : probing.most]


def _answers(probes: Trajectories, probing: Probing, rows: int) -> ForcedAnswer:
  """Returns what the probes sampled, by row and place. Their columns begin with the first sampled token."""
  assert probes.features is not None  # they are recorded
  length = jnp.maximum(probes.full_length - probes.trained_from, 0)
  places = jnp.arange(probing.answer_tokens, dtype=jnp.int32)

  def own(x: Array) -> Array:
    return jnp.where(places < length[:, None], x, 0).reshape(rows, probing.most, -1)

  content = length - ((length > 0) & (probes.stop_reason == StopReason.EOS)).astype(length.dtype)
  entropy, by_place = own(probes.features.entropy), (rows, probing.most)
  return ForcedAnswer(own(probes.tokens), own(probes.logprobs), entropy, length.reshape(by_place), content.reshape(by_place))

"""Self-speculative decoding: the first blocks draft tokens, and the other blocks verify them in one pass.

The output has the full model's distribution. As in LayerSkip (arXiv 2404.16710) the model drafts for itself: the first blocks
read a draft, and their residual stream goes directly to the final norm and the LM head, or first to the translator of an exit
that is there. The verification continues from these streams and keys. Acceptance and the resampling of a rejected draft follow
speculative sampling (arXiv 2211.17192). Without a head all rows draft equally many tokens. With one each row stops drafting by
itself, as in SpecDec++ (arXiv 2405.19715).
"""

import dataclasses
import functools
from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from espo_jax import stops
from espo_jax.model import ActorCritic, Cache, Caches, Params, States, caches_of_samples
from espo_jax.rollout import sampling as draws
from espo_jax.rollout.accept_head import AcceptHead, log_probabilities, stops_drafting
from espo_jax.rollout.sampling import Sampling
from espo_jax.rollout.setup import prefill
from espo_jax.types import Prompts, StopReason, Trajectories

_KEEP = 0.9  # momentum of the running acceptance rate, per round
_PLAIN = Sampling()


class Speculation(flax.struct.PyTreeNode):
  """Statistics of drafting over all rows."""

  rounds: Int[Array, '']  # passes of the full model after the prefill
  drafted: Int[Array, '']  # tokens drafted in live rows
  accepted: Int[Array, '']  # drafted tokens that became part of a response
  spent: Int[Array, 'N']  # tokens per row that were drafted or drawn from the full model


class Accepting(flax.struct.PyTreeNode):
  """When a row stops drafting: once a rejection is likelier than `threshold`, and not before `least` drafts."""

  head: AcceptHead
  threshold: Float[Array, '']
  least: Int[Array, '']


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class _Setup:
  """The constants that every piece reads."""

  model: ActorCritic
  params: Params
  keys: Key[Array, 'N']
  sampling: Sampling
  greedy: Bool[Array, '']
  ends: Int[Array, 'E']  # tokens that end a response
  horizon: int
  blocks: int  # the number of first blocks that draft
  drafts: int  # the most tokens drafted at a time
  accepting: Accepting | None = None  # when a row stops drafting; None for the same number of drafts in all rows

  @property
  def places(self) -> int:
    """The number of tokens per row that a round verifies: the drafts and the token after them."""
    return self.drafts + 1


class _Record(flax.struct.PyTreeNode):
  """The arrays recorded for each token, one column per token."""

  tokens: Int[Array, 'N C']
  logprobs: Float[Array, 'N C']
  values: Float[Array, 'N C']
  regret: Float[Array, 'N C']


class _Rows(flax.struct.PyTreeNode):
  """The loop carry from round to round. The model has not read the last token of a row yet."""

  last: Int[Array, 'N']
  length: Int[Array, 'N']
  alive: Bool[Array, 'N']
  ended: Bool[Array, 'N']
  caches: Caches
  record: _Record
  acceptance: Float[Array, '']
  counts: Speculation


class _Drawn(NamedTuple):
  """Drafts, each with the logits that it was drawn from. Entries after the last draft of a round are meaningless."""

  logits: Float[Array, 'N K V']
  tokens: Int[Array, 'N K']


class _Drafting(NamedTuple):
  """The loop carry from draft to draft. Rows that have stopped drafting are carried along, and what they draw is not read."""

  step: Int[Array, '']
  token: Int[Array, 'N']
  streams: Float[Array, 'N K D']
  drawn: _Drawn
  cache: Cache
  drafts: Int[Array, 'N']  # the number of each row's drafts
  log_accepted: Float[Array, 'N']


class _Verified(NamedTuple):
  """The full model's outputs at the places of a round, and the tokens after acceptance."""

  cache: Cache
  logits: Float[Array, 'N K V']
  values: Float[Array, 'N K']
  accepted: Int[Array, 'N']  # the number of accepted drafts
  tokens: Int[Array, 'N K']


@functools.partial(
  jax.jit, static_argnames=('model', 'samples', 'horizon', 'draft_blocks', 'draft_tokens', 'end_tokens', 'pad_token')
)
def speculate(
  model: ActorCritic,
  params: Params,
  prompts: Prompts,
  key: Key[Array, ''],
  *,
  samples: int,
  horizon: int,
  end_tokens: tuple[int, ...],
  draft_blocks: int,
  draft_tokens: int,
  sampling: Sampling = _PLAIN,
  accepting: Accepting | None = None,
  pad_token: int = 0,
) -> tuple[Trajectories, Speculation]:
  """Samples `samples` responses per prompt from the full model, all rows at once, several tokens per pass.

  The draft length adapts to the acceptance rate: of 1 to `draft_tokens` it is the one with the most expected tokens per
  executed block. With `accepting` each row stops by itself, and a round drafts until all have. Samples have the full model's
  distribution, but the same key gives another sample under another draft length.

  Args:
    model: Policy and critic with unrolled layers and one trunk. An exit policy is ignored.
    params: The parameters of policy and critic.
    prompts: `P` prompts.
    key: This step's random key.
    samples: `G`, the number of responses per prompt.
    horizon: `T`, the most tokens of a response.
    end_tokens: Token ids that end a response.
    draft_blocks: The number of first blocks that draft.
    draft_tokens: The most tokens drafted at a time.
    sampling: How logits become the distribution that is sampled, for drafts as well.
    accepting: When a row stops drafting; None for the adapted length.
    pad_token: The token that fills the columns after a response.

  Returns:
    `N = P * samples` rows, group-major, and the statistics of drafting.
  """
  sampling = jax.tree.map(jnp.asarray, sampling)  # the defaults are Python numbers
  greedy = draws.is_greedy(sampling)
  keys = draws.row_keys(key, jnp.asarray(prompts.ids), samples)
  prompt_lengths = jnp.repeat(jnp.asarray(prompts.lengths), samples)
  states, caches = prefill(model, params, prompts)
  columns = prompts.tokens.shape[1] + horizon + draft_tokens + 1
  caches = Caches(caches_of_samples(caches.policy, samples, columns), None)
  setup = _Setup(
    model=model,
    params=params,
    keys=keys,
    sampling=sampling,
    greedy=greedy,
    ends=jnp.array(end_tokens),
    horizon=horizon,
    blocks=draft_blocks,
    drafts=draft_tokens,
    accepting=accepting,
  )
  rows = _first_tokens(setup, states, caches, samples, pad_token)
  rows = jax.lax.while_loop(lambda rows: rows.alive.any(), functools.partial(_round, setup), rows)
  return _trajectories(rows, prompts, prompt_lengths, samples), rows.counts


def _first_tokens(setup: _Setup, states: States, caches: Caches, samples: int, pad_token: int) -> _Rows:
  """Draws the first token of each row, from the logits of the prefill without a draft."""
  rows = setup.keys.shape[0]
  logits = draws.sampled_logits(setup.model.logits(setup.params, states), setup.sampling)
  logits, values = (jnp.repeat(x, samples, axis=0) for x in (logits, setup.model.values(setup.params, states)))
  noise = draws.token_noise(setup.keys, jnp.zeros(rows, jnp.int32), 3)
  first, logprobs = draws.draw(logits, noise[:, 0], setup.greedy)
  regret = stops.surrogate_regret(logits, first)

  def blank(x: Array, fill: int = 0) -> Array:
    return jnp.full((rows, setup.horizon), fill, x.dtype).at[:, 0].set(x)

  record = _Record(blank(first, pad_token), blank(logprobs), blank(values), blank(regret))
  ended = (first[:, None] == setup.ends).any(-1)
  zero = jnp.zeros((), jnp.int32)
  return _Rows(
    last=first,
    length=jnp.ones(rows, jnp.int32),
    alive=~ended & (setup.horizon > 1),
    ended=ended,
    caches=caches,
    record=record,
    acceptance=jnp.float32(0.7),
    counts=Speculation(zero, zero, zero, jnp.ones(rows, jnp.int32)),
  )


def _round(setup: _Setup, rows: _Rows) -> _Rows:
  """Runs the full model over each row's last token and some drafts.

  All places are verified whatever the number of drafts, so that one program serves all draft lengths. The next round overwrites
  the columns after the drafts.
  """
  model, places, share = setup.model, setup.places, setup.blocks / setup.model.config.num_layers
  most = jnp.int32(setup.drafts) if setup.accepting else _best_length(rows.acceptance, share, setup.drafts)
  start = rows.caches.policy.lengths
  longest = jnp.where(rows.alive, start + places, 1).max()
  uniforms = jax.vmap(lambda i: draws.token_noise(setup.keys, rows.length + i, 3))(jnp.arange(places))  # [K, N, 3]
  streams, drawn, count, cache = _draft(setup, rows, most, longest, uniforms)
  found, cache = model.verify(setup.params, streams, cache.replace(lengths=start), longest, setup.blocks)
  logits = draws.sampled_logits(model.logits(setup.params, found), setup.sampling)
  accepted, tokens = _accept(logits, drawn, count, uniforms.swapaxes(0, 1), setup.greedy)
  verified = _Verified(cache, logits, model.values(setup.params, found), accepted, tokens)
  return _settle(setup, rows, count, verified)


def _draft(
  setup: _Setup, rows: _Rows, most: Int[Array, ''], longest: Int[Array, ''], uniforms: Float[Array, 'K N 3']
) -> tuple[Float[Array, 'N K D'], _Drawn, Int[Array, 'N'], Cache]:
  """Runs the first blocks on the last token and on up to `most` drafts.

  Returns:
    The streams of these tokens, the drafts, their number in each row, and the cache.
  """
  model, shape = setup.model, (rows.last.shape[0], setup.places)

  def unread(carry: _Drafting) -> Bool[Array, '']:  # the first blocks read the last draft as well: a token may follow it
    return (carry.step <= most) & (rows.alive & (carry.drafts == carry.step)).any()

  def one(carry: _Drafting) -> _Drafting:
    i = carry.step
    stream, cache = model.draft(setup.params, carry.token[:, None], carry.cache, longest, setup.blocks)
    goes_on, log_accepted = (carry.drafts == i) & (i < most), carry.log_accepted
    if setup.accepting is not None:
      accepted = log_probabilities(setup.accepting.head, stream[:, 0])[:, 1]
      log_accepted = log_accepted + jnp.where(i > 0, accepted, 0)
      goes_on = goes_on & ((i < setup.accepting.least) | ~stops_drafting(log_accepted, setup.accepting.threshold))
    logits = draws.sampled_logits(model.readout(setup.params, stream, setup.blocks)[:, 0], setup.sampling)
    token = draws.draw(logits, uniforms[i, :, 0], setup.greedy)[0]
    put = functools.partial(jax.lax.dynamic_update_index_in_dim, index=i, axis=1)
    drawn = _Drawn(put(carry.drawn.logits, logits[:, None]), put(carry.drawn.tokens, token[:, None]))
    return _Drafting(i + 1, token, put(carry.streams, stream), drawn, cache, carry.drafts + goes_on, log_accepted)

  streams = jnp.zeros((*shape, model.config.hidden_size), model.config.activation_dtype)
  nothing = _Drawn(jnp.zeros((*shape, model.config.vocab_size)), jnp.zeros(shape, jnp.int32))
  none = jnp.zeros(shape[0], jnp.int32)
  begun = _Drafting(jnp.zeros((), jnp.int32), rows.last, streams, nothing, rows.caches.policy, none, jnp.zeros(shape[0]))
  found = jax.lax.while_loop(unread, one, begun)
  return found.streams, found.drawn, found.drafts, found.cache


def _settle(setup: _Setup, rows: _Rows, count: Int[Array, 'N'], verified: _Verified) -> _Rows:
  """Appends the tokens of a round with `count` drafts to the record."""
  logits, tokens, accepted = verified.logits, verified.tokens, verified.accepted
  place = jnp.arange(setup.places)
  is_end = (tokens[..., None] == setup.ends).any(-1)
  closed = jnp.cumsum(is_end, axis=1) - is_end > 0  # after an end token
  kept = (place <= accepted[:, None]) & ~closed & (rows.length[:, None] + place < setup.horizon) & rows.alive[:, None]
  new = kept.sum(axis=1, dtype=jnp.int32)
  chosen = jnp.take_along_axis(logits, tokens[..., None], axis=-1)[..., 0]
  columns = jnp.where(kept, rows.length[:, None] + place, setup.horizon)  # `mode='drop'` ignores a column past the last one
  row = jnp.arange(tokens.shape[0])[:, None]
  regret = stops.surrogate_regret(logits, tokens)
  found = _Record(tokens, chosen - jax.nn.logsumexp(logits, axis=-1), verified.values, regret)
  record = jax.tree.map(lambda old, x: old.at[row, columns].set(x, mode='drop'), rows.record, found)
  ended = (is_end & kept).any(axis=1)
  length = rows.length + new
  last = jnp.take_along_axis(tokens, jnp.maximum(new - 1, 0)[:, None], axis=1)[:, 0]
  written = jnp.where(rows.alive, count, 0)
  drafted = written.sum(dtype=jnp.int32)
  taken = jnp.where(rows.alive, jnp.minimum(accepted, new), 0).sum(dtype=jnp.int32)
  rate = jnp.where(rows.alive, accepted, 0).sum() / jnp.maximum(drafted, 1)
  moved = _KEEP * rows.acceptance + (1 - _KEEP) * rate
  cache, counts = verified.cache, rows.counts
  return _Rows(
    last=jnp.where(rows.alive, last, rows.last),
    length=length,
    alive=rows.alive & ~ended & (length < setup.horizon),
    ended=rows.ended | ended,
    caches=rows.caches.replace(policy=cache.replace(lengths=cache.lengths + new)),
    record=record,
    acceptance=moved,
    counts=Speculation(
      counts.rounds + 1, counts.drafted + drafted, counts.accepted + taken, counts.spent + written + rows.alive
    ),
  )


def _trajectories(rows: _Rows, prompts: Prompts, prompt_lengths: Int[Array, 'N'], samples: int) -> Trajectories:
  """Returns the rows in the format of the engine, without stops."""
  zeros = jnp.zeros(rows.length.shape, jnp.int32)
  record = rows.record
  return Trajectories(
    prompt_tokens=jnp.repeat(prompts.tokens, samples, axis=0),
    prompt_lengths=prompt_lengths,
    tokens=record.tokens,
    logprobs=record.logprobs,
    values=record.values,
    regret=record.regret,
    z=jnp.zeros_like(record.regret),
    trained_from=zeros,
    length=rows.length,
    full_length=rows.length,
    stop_reason=jnp.where(rows.ended, StopReason.EOS, StopReason.LENGTH),
    started=zeros,
    shadow=jnp.zeros(rows.length.shape, bool),
  )


def _best_length(acceptance: Float[Array, ''], share: float, most: int) -> Int[Array, '']:
  """Returns the draft length from 1 to `most` with the most expected tokens per executed block, at this acceptance probability.

  A round of `d` drafts gives `1 + a + ... + a^d` tokens in expectation. It runs the drafting blocks `d + 1` times and the
  others once. A pass over a few tokens counts like a pass over one, because reading the weights dominates the cost.
  """
  lengths = jnp.arange(1, most + 1)
  tokens = jnp.cumsum(acceptance ** jnp.arange(most + 1))[1:]
  return 1 + jnp.argmax(tokens / ((lengths + 1) * share + (1 - share))).astype(jnp.int32)


def _accept(
  logits: Float[Array, 'N K V'], drawn: _Drawn, count: Int[Array, 'N'], uniforms: Float[Array, 'N K 3'], greedy: Array
) -> tuple[Int[Array, 'N'], Int[Array, 'N K']]:
  """Returns the number of accepted drafts, and the tokens: the drafts with a newly drawn token after the accepted ones.

  A draft `x` is accepted with probability `min(1, p(x) / q(x))`. The first rejected draft is replaced by a draw from the
  normalised `(p - q)+`. If all drafts are accepted, one more token is drawn from `p` (arXiv 2211.17192, algorithm 1).
  """
  place = jnp.arange(logits.shape[1])
  p_of, q_of = (draws.logprobs_of(x, drawn.tokens) for x in (logits, drawn.logits))
  right = jnp.where(greedy, drawn.tokens == logits.argmax(-1), uniforms[..., 1] < jnp.exp(p_of - q_of)) & (
    place < count[:, None]
  )
  accepted = jnp.cumprod(right.astype(jnp.int32), axis=1).sum(axis=1, dtype=jnp.int32)
  q = jnp.where((place < count[:, None])[..., None], jax.nn.softmax(drawn.logits, axis=-1), 0.0)

  def at(x: Array) -> Array:  # at the first rejected draft, or after the last draft
    return jnp.take_along_axis(x, accepted[:, None, None], axis=1)[:, 0]

  noise = jnp.take_along_axis(uniforms[..., 2], accepted[:, None], axis=1)[:, 0]
  drawn_now = draws.draw_residual(at(logits), at(q), noise, greedy)
  return accepted, jnp.where(place == accepted[:, None], drawn_now[:, None], drawn.tokens)

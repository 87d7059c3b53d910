"""Reuse of each sample's last response: the policy verifies it as a draft, and the row goes on behind the part that is kept.

The idea is SPEC-RL's (arXiv 2509.23232). The policy reads the draft in windows of tokens. For each token `d` of it, `p` is the
policy's distribution and `q` the distribution that `d` was drawn from. The first refused token ends what is kept:

| form | keeps `d` if | what replaces the refused token | its distribution |
|---|---|---|---|
| `exact` | `u < p(d) / q(d)`, and `d` is among the recorded tokens | a draw from `(p - q)+`, normalised | `p` |
| `coupled` | it is the draw from `p` with the uniform that drew it from `q` | that draw | `p` |
| `published` | `log u <= log p(d) - log q(d) + lenience` | a draw from `p` | not `p`, also with lenience 0 |

`exact` needs `q` at the one position where a draft is refused. Of each token the `K` likeliest candidates of its distribution
are recorded. Let `r` be `q` on these and 0 elsewhere. A draft token outside of them is refused, so that `x` is drafted and kept
with probability `min(p(x), r(x))`. The rest, `1 - sum min(p, r) = sum (p - r)+`, goes to the normalised `(p - r)+`. Both add up
to `p(x)` for every `x` and every `K`; a small `K` only refuses more. A kept token has the distribution `p` as well, so the row
is a sample of the policy, and its recorded distributions are the `q` of the next time.

`coupled` needs no `q`. The uniforms of a response are independent of each other and of its key. A row is the response that
they give under the new policy, up to the token that replaces the refused one; behind it the uniforms are fresh. It keeps fewer
tokens: for logits of deviation 2 over 50 tokens that move by 0.1 it keeps 82 % of the tokens, and `exact` 96 %. A test in
`tests/test_reuse.py` computes both shares.

`published` draws from `p` where a token was refused. With `q = (0.9, 0.1)` and `p = (0.5, 0.5)` its tokens are distributed as
`(0.7, 0.3)`. SPEC-RL also takes the same uniforms in every step; here they are fresh.

All of this holds for a policy that does not depend on the draft. A policy that was trained on the draft does, so that in every
form the samples of one problem depend on each other from epoch to epoch.

The stop rule reads the kept tokens as if they had been decoded. So a row may stop or end within its draft.
"""

import dataclasses
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from espo_jax import parallel, stops
from espo_jax.model import Caches, States, refill_rows
from espo_jax.rollout import sampling as draws
from espo_jax.rollout.endings import Token, advanced, judge
from espo_jax.rollout.progress import Correction, Row, TokenRecord, Verified
from espo_jax.rollout.setup import Setup, queue_of
from espo_jax.rollout.slots import blank, chosen_rows, spread, with_stop
from espo_jax.stops import Adaptive, StopState
from espo_jax.types import Candidates, Drafts, Reused, StopReason

_TOKENS = 4096  # the most draft tokens per device that the policy reads at a time
_READS = {'exact': 'candidates', 'coupled': 'uniforms', 'published': 'logprobs'}  # the field of drafts that a form reads


@dataclasses.dataclass(frozen=True)
class Reuse:
  """How drafts are verified.

  Attributes:
    form: `'exact'`, `'coupled'` or `'published'`.
    lenience: The number added to `log p - log q` in the form `'published'`; by default SPEC-RL's.
    candidates: The number of likeliest tokens that the form `'exact'` records of each distribution; the other forms read none.

  Raises:
    ValueError: The form is none of the three, or it is `'exact'` without candidates.
  """

  form: str
  lenience: float = 0.5
  candidates: int = 0

  def __post_init__(self) -> None:
    """Checks that the form has what it needs."""
    if self.form not in _READS:
      raise ValueError(f'form = {self.form!r}: there is no such form of reuse; fix: one of {", ".join(map(repr, _READS))}')
    if self.form == 'exact' and self.candidates < 1:
      raise ValueError(
        f"candidates = {self.candidates} with form = 'exact': every draft token would be refused; fix: candidates = 64, say"
      )

  def recorded(self, vocab_size: int) -> int:
    """Returns the number of candidates that are recorded of each distribution over a vocabulary."""
    return min(self.candidates, vocab_size) if self.form == 'exact' else 0


class Noted(NamedTuple):
  """Draft tokens, one per row or whole rows, with what the forms read of them. Each form reads one of the optional fields."""

  tokens: Int[Array, 'N *T']
  logprobs: Float[Array, 'N *T'] | None = None
  uniforms: Float[Array, 'N *T'] | None = None
  candidates: Candidates | None = None


def accept(
  reuse: Reuse, logits: Float[Array, 'N V'], noted: Noted, noise: Float[Array, 'N 3'], greedy: Bool[Array, '']
) -> tuple[Bool[Array, 'N'], Int[Array, 'N']]:
  """Says which draft tokens are kept, and what replaces each if it is not.

  Args:
    reuse: How drafts are verified.
    logits: The logits of the policy's distribution.
    noted: The draft tokens, with what the form reads of them.
    noise: The uniforms of these positions: the first draws a token, the third decides whether the draft's is kept.
    greedy: Whether the likeliest token is taken.

  Returns:
    Whether each token is kept, and the tokens that replace them: -1 where the row draws one as any other row does.
  """
  tokens = noted.tokens
  if reuse.form == 'coupled':
    assert noted.uniforms is not None
    drawn = draws.draw(logits, noted.uniforms, greedy)[0]
    return drawn == tokens, drawn
  logp = draws.logprobs_of(logits, tokens)
  likely = tokens == logits.argmax(axis=-1)
  if reuse.form == 'published':
    assert noted.logprobs is not None
    kept = jnp.log(noise[:, 2]) <= logp - noted.logprobs + reuse.lenience
    return jnp.where(greedy, likely, kept), jnp.full_like(tokens, -1)
  assert noted.candidates is not None
  candidates, logqs = jnp.asarray(noted.candidates.tokens), jnp.asarray(noted.candidates.logprobs)
  known = candidates == tokens[:, None]
  logq = jnp.where(known, logqs, -jnp.inf).max(axis=-1)
  kept = known.any(axis=-1) & (noise[:, 2] < jnp.exp(logp - logq))
  recorded = jax.vmap(lambda x, at, q: jnp.zeros_like(x).at[at].set(jnp.exp(q)))(logits, candidates, logqs)
  return jnp.where(greedy, likely, kept), draws.draw_residual(logits, recorded, noise[:, 0], greedy)


class _Verifying(flax.struct.PyTreeNode):
  """The carry from column to column of the drafts."""

  going: Bool[Array, 'N']  # no token of the draft was refused
  row: Row
  stop: StopState
  correction: Correction
  states: States  # after the last kept token


class _Read(flax.struct.PyTreeNode):
  """The carry from window to window of the drafts."""

  column: Int[Array, '']
  rows: _Verifying
  last: States  # after the last token that was read
  caches: Caches
  record: TokenRecord


def verify(setup: Setup, adaptive: Adaptive, reuse: Reuse) -> tuple[Setup, Int[Array, 'N']]:
  """Verifies the drafts of a rollout's prompts.

  A window is read only if a row still keeps its draft there, and each row has a cache of its own from here on.

  Args:
    setup: The constants of the rollout, in which each row starts behind its prompt.
    adaptive: The state that the rule carries from batch to batch.
    reuse: How drafts are verified.

  Returns:
    The constants of the rollout in which each row starts behind what it keeps of its draft, and the number of draft tokens per
    row that the policy read.

  Raises:
    ValueError: The prompts have no drafts of the form, the model has exits, the rule ends groups, `critic_every` is above 1
      with a separate critic, features are recorded, or logits are processed.
  """
  drafts = _checked(setup, reuse)
  setup = dataclasses.replace(setup, sampling=jax.tree.map(jnp.asarray, setup.sampling))
  shards = 1 if setup.mesh is None else parallel.batch_shards(setup.mesh)
  width = max(1, min(setup.scan_length, setup.horizon, _TOKENS * shards // setup.rows))
  padded = -(-setup.horizon // width) * width
  length = jnp.asarray(drafts.length).reshape(-1)
  fields = drafts.tokens, drafts.logprobs, drafts.uniforms, drafts.candidates
  noted = Noted(*jax.tree.map(lambda x: _padded_to(jnp.asarray(x).reshape(setup.rows, *x.shape[2:]), padded), fields))

  def unread(read: _Read) -> Array:
    return _verifies(read.rows, read.column, length).any() & (read.column < setup.horizon)

  def window(read: _Read) -> _Read:
    its = jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, read.column, width, axis=1), noted)
    return _window(setup, reuse, its, length, read)

  read = jax.lax.while_loop(unread, window, _first_read(setup, adaptive, padded))
  rows = read.rows
  lengths = jnp.repeat(jnp.asarray(setup.start.prompts.lengths), setup.samples)
  record = jax.tree.map(lambda x: x[:, : setup.horizon], read.record)
  start = setup.start.replace(
    states=rows.states,
    caches=read.caches.of_lengths(lengths),
    first=rows.row.full_length,
    queue=queue_of(rows.row.alive),
    verified=Verified(rows.row, rows.stop.replace(adaptive=None), rows.correction, record),
  )
  return dataclasses.replace(setup, start=start), jnp.minimum(length, read.column)


def reused(setup: Setup, reuse: Reuse, scored: Int[Array, 'N']) -> Reused:
  """Returns what the rows have of their drafts.

  Args:
    setup: The constants of the rollout after the drafts were verified.
    reuse: How drafts are verified.
    scored: The number of draft tokens per row that the policy read.
  """
  start = setup.start
  assert start.verified is not None and start.prompts.drafts is not None
  drafts, uniforms = start.prompts.drafts, None
  if reuse.form == 'coupled':
    columns = jnp.arange(setup.horizon, dtype=jnp.int32)
    fresh = jax.vmap(lambda t: draws.token_noise(start.keys, jnp.full(setup.rows, t), 1)[:, 0], out_axes=1)(columns)
    drawn_before = (start.first + (start.verified.correction.column >= 0))[:, None]
    uniforms = jnp.where(columns < drawn_before, jnp.asarray(drafts.uniforms).reshape(fresh.shape), fresh)
  return Reused(jnp.asarray(drafts.length).reshape(-1), scored, start.first, uniforms)


def _checked(setup: Setup, reuse: Reuse) -> Drafts:
  drafts, reads = setup.start.prompts.drafts, _READS[reuse.form]
  if drafts is None:
    raise ValueError('prompts.drafts = None: there is nothing to verify; fix: drafts of length 0, or reuse = None')
  if getattr(drafts, reads) is None:
    raise ValueError(
      f'prompts.drafts.{reads} = None with reuse.form = {reuse.form!r}, which reads them; fix: drafts of the same form'
    )
  if setup.model.exits is not None:
    raise ValueError(f'model.exits = {setup.model.exits}: drafts are read at full depth; fix: a model without exits')
  if setup.rule.group is not None or setup.group > 1:
    raise ValueError(
      f'rule.group = {setup.rule.group}, critic_every = {setup.group}: rows start at columns of their own; '
      'fix: a rule without groups, and critic_every = 1'
    )
  if setup.directions is not None:
    raise ValueError('directions: no features are recorded of kept tokens; fix: directions = None')
  if setup.processor is not None:
    raise ValueError('processor: drafts are verified under the logits of the model; fix: processor = None')
  return drafts


def _first_read(setup: Setup, adaptive: Adaptive, columns: int) -> _Read:
  """Returns the rows behind their prompts, each with a cache of its own."""
  start, rows = setup.start, jnp.arange(setup.rows, dtype=jnp.int32)
  states = jax.tree.map(lambda x: jnp.zeros((setup.rows, *x.shape[1:]), x.dtype), start.states)
  begun = start.states, start.caches
  caches = setup.model.init_caches(setup.rows, setup.columns)
  states, caches = spread(setup, refill_rows(states, caches, begun, rows // setup.samples, rows))
  none, alive = jnp.zeros_like(rows), jnp.ones(setup.rows, bool)
  if start.queue is not None:
    alive = jnp.zeros(setup.rows, bool).at[start.queue.rows].set(rows < start.queue.count)
  row = Row(index=rows, length=none, full_length=none, reason=none + StopReason.LENGTH, started=none, alive=alive)
  stop = setup.rule.init(setup.rows, adaptive)
  verifying = _Verifying(going=alive, row=row, stop=stop, correction=Correction(none - 1, none - 1), states=states)
  return _Read(jnp.zeros((), jnp.int32), verifying, states, caches, blank(setup, setup.rows, columns))


def _verifies(rows: _Verifying, column: Int[Array, ''], lengths: Int[Array, 'N']) -> Bool[Array, 'N']:
  """Returns whether each row still verifies its draft, of these lengths, in a column."""
  return rows.going & rows.row.alive & (column < lengths)


def _window(setup: Setup, reuse: Reuse, its: Noted, lengths: Int[Array, 'N'], read: _Read) -> _Read:
  """Reads the draft tokens `its` of the next columns, and keeps them up to the first that is refused.

  All rows are read, also those whose draft was refused. The columns behind what a row keeps are overwritten later.
  """
  model, width = setup.model, its.tokens.shape[1]
  longest = jnp.where(_verifies(read.rows, read.column, lengths), read.caches.policy.lengths + width, 1).max()
  after, caches = model.extend_both(setup.params, its.tokens, read.caches, longest)
  before = jax.tree.map(lambda last, x: jnp.concatenate([last[:, None], x[:, :-1]], axis=1), read.last, after)
  logits = draws.sampled_logits(model.logits(setup.params, before), setup.sampling)
  values = model.values(setup.params, before)
  columns = read.column + jnp.arange(width, dtype=jnp.int32)
  across = jax.tree.map(lambda x: x.swapaxes(0, 1), (logits, values, its, after))

  def place(rows: _Verifying, xs: tuple[Any, ...]) -> tuple[_Verifying, TokenRecord]:
    return _column(setup, reuse, lengths, rows, *xs)

  rows, found = jax.lax.scan(place, read.rows, (columns, *across))
  found = jax.tree.map(lambda x: x.swapaxes(0, 1), found)
  record = jax.tree.map(lambda old, x: jax.lax.dynamic_update_slice_in_dim(old, x, read.column, axis=1), read.record, found)
  states, caches = spread(setup, (jax.tree.map(lambda x: x[:, -1], after), caches))
  return _Read(read.column + width, rows, states, caches, record)


def _column(
  setup: Setup,
  reuse: Reuse,
  lengths: Int[Array, 'N'],
  rows: _Verifying,
  column: Int[Array, ''],
  logits: Float[Array, 'N V'],
  values: Float[Array, 'N'],
  noted: Noted,
  after: States,
) -> tuple[_Verifying, TokenRecord]:
  """Verifies one draft token of each row; returns the rows after it, and what is recorded of the tokens that are kept."""
  start, row, tokens = setup.start, rows.row, noted.tokens
  noise = draws.token_noise(start.keys, jnp.full_like(tokens, column), 3)
  kept, instead = accept(reuse, logits, noted, noise, draws.is_greedy(setup.sampling))
  asked = _verifies(rows, column, lengths)
  taken, refused = asked & kept, asked & ~kept & (instead >= 0)
  logprobs, regret = draws.logprobs_of(logits, tokens), stops.surrogate_regret(logits, tokens)
  token = Token(logits, tokens, logprobs, values, regret, noise, rows.states.policy)
  its = row.replace(alive=taken)
  judged = judge(setup, its, rows.stop, start.shadow, start.limit, token)
  likely = draws.likeliest(logits, setup.candidates) if setup.candidates else None
  record = TokenRecord(tokens, logprobs, values, regret, judged.z, depth=None, features=None, candidates=likely)
  record = chosen_rows(taken, record, blank(setup, setup.rows))
  rows = _Verifying(
    going=rows.going & ~(asked & ~kept),
    row=advanced(setup, its, judged).replace(alive=jnp.where(taken, judged.alive, row.alive)),
    stop=with_stop(taken, judged.stop, rows.stop),
    correction=Correction(
      jnp.where(refused, column, rows.correction.column), jnp.where(refused, instead, rows.correction.token)
    ),
    states=chosen_rows(taken, after, rows.states),
  )
  return rows, record


def _padded_to(x: Array, columns: int) -> Array:
  """Pads the second axis to so many columns."""
  return jnp.pad(x, [(0, 0), (0, columns - x.shape[1])] + [(0, 0)] * (x.ndim - 2))

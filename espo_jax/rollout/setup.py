"""Defines the constants of a rollout: the model, the options, and where each row starts."""

import dataclasses

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from espo_jax.model import ActorCritic, Caches, Params, States
from espo_jax.rollout.processors import Processor
from espo_jax.rollout.progress import Verified
from espo_jax.rollout.sampling import Sampling
from espo_jax.stops import StopRule
from espo_jax.types import Prompts


class Queue(flax.struct.PyTreeNode):
  """The rows that are decoded, in order, where these are not all."""

  rows: Int[Array, 'N']  # the first `count` are decoded
  count: Int[Array, '']


class Start(flax.struct.PyTreeNode):
  """Where each row starts: row `n` uses prompt `n // samples` and keeps the first `first[n]` response tokens in the cache.

  States and caches are per prompt, or per row where drafts were verified.
  """

  prompts: Prompts
  states: States  # after the last token of the prompt, or of the kept draft; unused in rows whose first token is given
  caches: Caches  # `lengths` counts prompt tokens only
  first: Int[Array, 'N']  # the number of response tokens kept from the cache
  limit: Int[Array, 'N']  # the most response tokens of the row, given ones included
  keys: Key[Array, 'N']
  shadow: Bool[Array, 'N']  # the row goes on decoding after a stop
  given: Int[Array, 'N']  # the number of response tokens that are not drawn: from the cache, then the inducer
  queue: Queue | None = None  # the rows that are decoded; None for all, in order
  verified: Verified | None = None  # what the rows keep of their drafts; None without drafts


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Setup:
  """The constants that every piece of the engine reads. They are never part of a loop carry.

  Attributes:
    model: Policy and critic.
    params: The parameters of policy and critic.
    rule: The stop rule.
    start: Where each row starts.
    samples: The number of rows per prompt.
    slots: The number of rows decoded at a time, at most the number of rows.
    horizon: The most tokens of a response.
    end_tokens: Token ids that end a response.
    pad_token: The token in the columns after a response.
    sampling: How logits become the distribution that is sampled.
    scan_length: The most decode steps per chunk, after which decoded tokens are written out.
    critic_every: The number of tokens that a separate critic reads at a time.
    exit_level: The level of the model's exit policy; unused without one.
    directions: The directions onto which states are projected to be recorded; None records no features of states.
    entropies: Whether the entropy of each token's distribution is recorded without other features of its state.
    inducer: The tokens forced on every row after those kept from the cache.
    drawn: The number of columns recorded of each row from its first drawn token on; None for all columns from its first token.
    turns: Whether a row may go on after its end, in a next turn. Its stop rule and its states do not change while it waits.
    candidates: The number of likeliest tokens recorded of each token's distribution; 0 for none.
    processor: The change of the logits of each token; None for none.
    mesh: The mesh that the parameters are on; None for a single device.
  """

  model: ActorCritic
  params: Params
  rule: StopRule
  start: Start
  samples: int
  slots: int
  horizon: int
  end_tokens: tuple[int, ...]
  pad_token: int
  sampling: Sampling
  scan_length: int
  critic_every: int
  exit_level: float | Float[Array, ''] = 0.0
  directions: Float[Array, 'D K'] | None = None
  entropies: bool = False
  inducer: tuple[int, ...] = ()
  drawn: int | None = None
  turns: bool = False
  candidates: int = 0
  processor: Processor | None = None
  mesh: jax.sharding.Mesh | None = None

  @property
  def rows(self) -> int:
    """The number of rows."""
    return self.start.first.shape[0]

  @property
  def queued(self) -> int | Int[Array, '']:
    """The number of rows that are decoded."""
    return self.rows if self.start.queue is None else self.start.queue.count

  def row_at(self, place: Int[Array, '...']) -> Int[Array, '...']:
    """Returns the row at a place of the queue."""
    return place if self.start.queue is None else self.start.queue.rows[jnp.minimum(place, self.rows - 1)]

  def start_of(self, row: Int[Array, '...']) -> Int[Array, '...']:
    """Returns the index of a row's state and cache in `start`."""
    return row // self.samples if self.start.verified is None else row

  @property
  def group(self) -> int:
    """The tokens per slot between two readings of the critic; 1 without a separate critic."""
    return self.critic_every if self.model.separate_critic else 1

  @property
  def steps(self) -> int:
    """The most decode steps per chunk: `scan_length` rounded up to whole groups. Groups of rows are judged between chunks."""
    most = self.scan_length if self.rule.group is None else min(self.scan_length, self.rule.group.tokens)
    return -(-most // self.group) * self.group

  @property
  def columns(self) -> int:
    """The number of columns of a slot's cache. It has room for whole groups, whose last tokens may lie past a row's end."""
    return self.start.prompts.tokens.shape[1] + -(-self.horizon // self.group) * self.group


def start_rows(
  prompts: Prompts,
  states: States,
  caches: Caches,
  *,
  first: Int[Array, 'N'],
  limit: Int[Array, 'N'],
  keys: Key[Array, 'N'],
  shadow: Bool[Array, 'N'],
  inducer: tuple[int, ...] = (),
) -> Start:
  """Returns where each row starts. A row is given `first` tokens from the cache and then the inducer."""
  given = first + len(inducer)
  queue = None if prompts.rows is None else queued_rows(jnp.asarray(prompts.rows), first.size // prompts.rows.shape[0])
  return Start(prompts, states, caches, first, limit, keys, shadow, given, queue)


def queued_rows(rows: Int[Array, 'P'], samples: int) -> Queue:
  """Returns the first `rows` samples of each prompt, group by group."""
  wanted = (jnp.arange(samples, dtype=jnp.int32)[None] < rows[:, None]).reshape(-1)
  return queue_of(wanted)


def queue_of(wanted: Bool[Array, 'N']) -> Queue:
  """Returns the rows that are wanted, in order."""
  return Queue(jnp.argsort(~wanted, stable=True).astype(jnp.int32), wanted.sum(dtype=jnp.int32))


def slot_count(slots: int, rows: int) -> int:
  """Returns the number of slots for `rows` rows: the requested `slots`, at most one per row; 0 requests one per row."""
  return min(slots or rows, rows)


def prefill(
  model: ActorCritic, params: Params, prompts: Prompts, exit_level: float | Float[Array, ''] = 0.0
) -> tuple[States, Caches]:
  """Runs the model once on each prompt.

  `Prompts` are padded on the left, so that prompt and response concatenate to the sequence that the learner scores. A cache is
  padded on the right, so that token `t` of a row stands in column `t`. This function shifts the prompts.

  Args:
    model: Policy and critic.
    params: The parameters of policy and critic.
    prompts: `P` prompts.
    exit_level: The level of the model's exit policy; unused without a router.

  Returns:
    The states of the prompts' last tokens, and caches of the prompts' columns.
  """
  width, lengths = prompts.tokens.shape[1], jnp.asarray(prompts.lengths)
  from_right = (jnp.arange(width) + width - lengths[:, None]) % width
  return model.prefill(params, jnp.take_along_axis(jnp.asarray(prompts.tokens), from_right, axis=1), lengths, exit_level)

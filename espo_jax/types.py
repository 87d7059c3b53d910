"""The arrays that the packages of `espo_jax` share, and the conventions for their shapes.

| symbol | meaning |
|---|---|
| `P` | number of prompts |
| `G` | number of samples per prompt |
| `N` | number of rows, `P * G`, group-major: row `p * G + g` is sample `g` of prompt `p` |
| `L` | padded prompt width; prompts are padded on the left, so every response starts in column `L` |
| `T` | the horizon: the most tokens of a response |

Index `t` of a response array belongs to response token `t`: it holds the token's log-probability, or the value or regret of the
state that the token was drawn from. Public functions accept NumPy arrays of every width as well: see `takes_numpy`.

Registration applies `takes_numpy` to every method; other functions carry it themselves.
"""

import enum
import functools
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar, cast

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt32

AnyArray = TypeVar('AnyArray', jax.Array, np.ndarray)
Function = TypeVar('Function', bound=Callable[..., Any])
_TAKING: weakref.WeakSet[Callable[..., Any]] = weakref.WeakSet()


def takes_numpy(function: Function) -> Function:
  """Makes `function` accept NumPy arrays of every width wherever it accepts jax arrays, alone or inside pytrees.

  NumPy's default dtypes are twice as wide as jax's: in a computation they would request dtypes that jax does not have, or
  integers that it cannot hold. Narrow dtypes would overflow. Keyword arguments that are plain numbers, which are options, stay
  unchanged. A function that is already wrapped is returned as it is.
  """
  if function in _TAKING:
    return function

  @functools.wraps(function)
  def taking(*args: Any, **kwargs: Any) -> Any:
    kwargs = {name: value if isinstance(value, np.floating) else jax.tree.map(_as_jax, value) for name, value in kwargs.items()}
    return function(*jax.tree.map(_as_jax, args), **kwargs)

  _TAKING.add(taking)
  return cast(Function, taking)


def _as_jax(x: Any) -> Any:
  if not isinstance(x, np.ndarray | np.floating):
    return x
  if x.dtype.itemsize < 4 and x.dtype.kind in 'iuf':
    x = x.astype(np.float32 if x.dtype.kind == 'f' else np.int32)
  return jnp.asarray(x)


class StopReason(enum.IntEnum):
  """Why a row ended."""

  LENGTH = 0  # the row reached the horizon
  EOS = 1  # the row wrote an end token
  STOPPED = 2  # a stop rule ended the row, which returns what `stop.returns` says; ESPO's is an absorbing failure
  PRUNED = 3  # a stop rule ended the row, which then leaves the batch
  SETTLED = 4  # a stop rule ended the row, whose text is graded as it stands


def by_a_rule(reason: AnyArray) -> AnyArray:
  """Returns whether a stop rule cut a row short, by its `StopReason`, on the device or on the host that the array is on.

  A settled row was not cut: it has its answer.
  """
  return (reason == StopReason.STOPPED) | (reason == StopReason.PRUNED)


class Candidates(flax.struct.PyTreeNode):
  """The `K` likeliest tokens of the distribution that each token was drawn from, the likeliest first."""

  tokens: Int[Array | np.ndarray, '... K']
  logprobs: Float[Array | np.ndarray, '... K']


class Drafts(flax.struct.PyTreeNode):
  """The last response of each sample, of which the next one may keep a part.

  Each form of reuse reads one of the optional fields. In the drafts of a pool the first axis is the problem, not the prompt.
  """

  tokens: Int[Array | np.ndarray, 'P G T']
  length: Int[Array | np.ndarray, 'P G']  # 0 where there is no response yet
  logprobs: Float[Array | np.ndarray, 'P G T'] | None = None  # of the tokens, under the policy of that time
  uniforms: Float[Array | np.ndarray, 'P G T'] | None = None  # the uniform that each token was drawn with
  candidates: Candidates | None = None  # [P, G, T]


class Prompts(flax.struct.PyTreeNode):
  """A batch of prompts, padded on the left. The arrays are on the host until they are put on the mesh."""

  tokens: Int[Array | np.ndarray, 'P L']
  lengths: Int[Array | np.ndarray, 'P']
  ids: UInt32[Array | np.ndarray, 'P']  # the problem's number, which the random keys of its samples fold in
  rows: Int[Array | np.ndarray, 'P'] | None = None  # how many of its samples are begun; None for all
  drafts: Drafts | None = None  # the responses that its samples may keep a part of; None without reuse


class SupervisedBatch(NamedTuple):
  """Prompts with written responses. Prompts are padded on the left to `L` columns, responses on the right to `T`."""

  tokens: Int[np.ndarray, 'B L+T']
  prompt_lengths: Int[np.ndarray, 'B']
  response_lengths: Int[np.ndarray, 'B']  # number of tokens, with the end token
  weights: Float[np.ndarray, 'B T'] | None = None  # of each response token's loss, 0 for none; None if each has loss


class Depth(flax.struct.PyTreeNode):
  """The number of blocks that each token ran through, and the log-probability of the exit decisions that led to it."""

  blocks: Int[Array, '...']
  logprobs: Float[Array, '...']  # sum over the token's exit decisions; 0 where none was drawn
  route: UInt32[Array, '... R'] | None = None  # one bit per block, 1 where it runs; None where `blocks` says it all


class Features(flax.struct.PyTreeNode):
  """What is recorded about the state that each token was drawn from. Probes record the entropy alone."""

  entropy: Float[Array, '...']  # of the sampling distribution, nats
  margin: Float[Array, '...'] | None = None  # log-probability of the likeliest token minus that of the second; inf without one
  confidence: Float[Array, '...'] | None = None  # minus the mean log-probability of the 20 likeliest tokens, nats
  projections: Float[Array, '... K'] | None = None  # of the policy's final state onto fixed orthonormal directions


class Reused(flax.struct.PyTreeNode):
  """The part of its draft that each row keeps."""

  drafted: Int[Array, 'N']  # tokens of the draft
  scored: Int[Array, 'N']  # tokens of the draft that the policy read
  kept: Int[Array, 'N']  # tokens of the draft that are the row's first ones
  uniforms: Float[Array, 'N T'] | None = None  # the uniform that each token is drawn with; None unless the next draft needs it


class Trajectories(flax.struct.PyTreeNode):
  """The finished rows of a rollout, as the engine returns them and every later step reads them.

  A shadow row is a stopped row that went on decoding: to measure what was lost, to fit a head, or to be trained on by roulette.
  Rows of a group that a rule ended as a whole may have tokens past `length` too, decoded before the group was judged.

  | columns | what they hold |
  |---|---|
  | before `trained_from` | tokens that the row was given, not sampled; zeros in the other arrays |
  | `trained_from .. length` | the tokens trained on; the last one is the end token or the token that triggered a stop, if any |
  | `length .. full_length` | what a shadow row decoded after its stop; trained on under roulette alone, which reads `whole` |
  | past `full_length` | the pad token; zeros in the other arrays |
  | before `full_length`, where `turn` is -1 | the tokens of an environment's observation; zeros in the other arrays |
  """

  prompt_tokens: Int[Array, 'N L']
  prompt_lengths: Int[Array, 'N']
  tokens: Int[Array, 'N T']
  logprobs: Float[Array, 'N T']  # under the sampling distribution
  values: Float[Array, 'N T']  # V(s_t)
  regret: Float[Array, 'N T']  # surrogate regret g_t >= 0, nats
  z: Float[Array, 'N T']  # the stop rule's smoothed statistic
  trained_from: Int[Array, 'N']  # given response tokens at the row's start; 0 except in a serial rollout
  length: Int[Array, 'N']
  full_length: Int[Array, 'N']
  stop_reason: Int[Array, 'N']
  started: Int[Array, 'N']  # the decode step at which the row took a slot; with turns, that of its last token - full_length
  shadow: Bool[Array, 'N']  # the row was stopped and decoded on
  depth: Depth | None = None  # [N, T], of the state that token t was drawn from; None without exits
  features: Features | None = None  # [N, T], of the state that token t was drawn from; None unless they are recorded
  candidates: Candidates | None = None  # [N, T], of the distribution of token t; None unless they are recorded
  reused: Reused | None = None  # None without drafts
  turn: Int[Array, 'N T'] | None = None  # the turn of the policy's tokens, from 0; -1 on others. None without an environment

  @property
  @takes_numpy
  def joint_logprobs(self) -> Float[Array, 'N T']:
    """The log-probability of each token plus that of the exit decisions before it."""
    return self.logprobs if self.depth is None else self.logprobs + self.depth.logprobs

  @takes_numpy
  def depth_share(self, layers: int) -> Float[Array, 'N']:
    """Returns the mean share of the `layers` blocks that a row's token states ran through; 1 without exits."""
    if self.depth is None:
      return jnp.ones(self.length.shape)
    ran = jnp.where(self.mask, self.depth.blocks, 0).sum(axis=1)
    return ran / (layers * jnp.maximum(self.mask.sum(axis=1), 1))

  @property
  @takes_numpy
  def mask(self) -> Bool[Array, 'N T']:
    """True on the tokens that count: those that the row sampled, up to its stop or end."""
    columns = jnp.arange(self.tokens.shape[-1])
    counts = (columns >= self.trained_from[..., None]) & (columns < self.length[..., None])
    return counts if self.turn is None else counts & (self.turn >= 0)

  @property
  @takes_numpy
  def sizes(self) -> Int[Array, 'N']:
    """The number of tokens of each row up to its stop or end, without observations."""
    return self.length if self.turn is None else self.mask.sum(axis=-1, dtype=jnp.int32)

  @property
  @takes_numpy
  def begun(self) -> Bool[Array, 'N']:
    """True where the row was decoded at all: see `Prompts.rows`."""
    return self.full_length > 0

  @property
  @takes_numpy
  def stopped(self) -> Bool[Array, 'N']:
    """True where a stop rule cut the row short, pruned rows included and settled rows not."""
    return by_a_rule(self.stop_reason)

  @property
  @takes_numpy
  def settled(self) -> Bool[Array, 'N']:
    """True where a stop rule ended the row, whose text is graded as it stands."""
    return self.stop_reason == StopReason.SETTLED

  @property
  @takes_numpy
  def pruned(self) -> Bool[Array, 'N']:
    """True where a stop rule ended the row, which then leaves the batch."""
    return self.stop_reason == StopReason.PRUNED

  @takes_numpy
  def without(self, dropped: Bool[Array, 'N']) -> 'Trajectories':
    """Returns the rows in which those that are dropped have no tokens, so that no mean and no loss counts them."""
    return self.replace(length=jnp.where(dropped, 0, self.length), trained_from=jnp.where(dropped, 0, self.trained_from))

  def ordinary(self) -> 'Trajectories':
    """Returns the rows without what only their drafts and the next ones read."""
    return self.replace(candidates=None, reused=None)

  @takes_numpy
  def whole(self) -> 'Trajectories':
    """Returns the rows in which a shadow row ends where it ended by itself, as if no rule had stopped it.

    A shadow row of `T` tokens counts as cut by the horizon, because its own last token was not compared with the end tokens.
    """
    own = jnp.where(self.full_length < self.tokens.shape[-1], StopReason.EOS, StopReason.LENGTH)
    return self.replace(
      length=jnp.where(self.shadow, self.full_length, self.length),
      stop_reason=jnp.where(self.shadow, own, self.stop_reason),
      shadow=jnp.zeros_like(self.shadow),
    )

  @takes_numpy
  def represented(self, shadow_share: float) -> Float[Array, 'N']:
    """Returns how many rows each row represents among those whose own end is known (Horvitz-Thompson).

    A shadow row represents `1 / shadow_share` stopped rows, and a stopped row that did not decode on none. The others represent
    themselves, and rows that were not begun nothing.

    Args:
      shadow_share: The share of stopped rows that decode on.
    """
    known = jnp.where(self.stopped, self.shadow / shadow_share if shadow_share else 0.0, 1.0)
    return jnp.where(self.begun, known, 0.0)

  @property
  @takes_numpy
  def truncated(self) -> Bool[Array, 'N']:
    """True where the horizon cut the row."""
    return self.stop_reason == StopReason.LENGTH


def values_seen(values: AnyArray, critic_every: int) -> AnyArray:
  """Returns the values that the stop rule saw, on the device or on the host that the values are on.

  Args:
    values: `V(s_t)`, `[N, T]`.
    critic_every: The number of tokens that a separate critic reads at a time; 1 for a shared trunk.
  """
  columns = np.arange(values.shape[-1])
  return values[..., columns // critic_every * critic_every]


class Verdicts(flax.struct.PyTreeNode):
  """What the host finds out about each row by reading its text.

  The arrays are on the host until they are put on the mesh. A response that could not be graded counts as wrong.
  """

  correct: Float[Array | np.ndarray, 'N']  # how correct the whole text is, in [0, 1]
  formatted: Bool[Array | np.ndarray, 'N']  # the text matches `reward.format`
  reasoned: Bool[Array | np.ndarray, 'N']  # the text matches `reward.reasoning`
  levels: Int[Array | np.ndarray, 'N']  # the index in `rollout.tags` of the prompt's tag
  timeout: Bool[Array | np.ndarray, 'N']  # the grader ran out of time
  error: Bool[Array | np.ndarray, 'N']  # the grader failed
  scores: dict[str, Float[Array | np.ndarray, 'N']] = flax.struct.field(default_factory=dict)  # rewards that read text
  paid: Float[Array | np.ndarray, 'N T'] | None = None  # the environment's reward on each turn's last token; None without one


class Reward(flax.struct.PyTreeNode):
  """What a reward function returns: one number per row and, optionally, one per token."""

  sequence: Float[Array, 'N']
  dense: Float[Array, 'N T'] | None = None
  extras: dict[str, Bool[Array, 'N']] = flax.struct.field(default_factory=dict)  # for objectives, by name
  parts: Float[Array, 'N K'] | None = None  # the summands of `reward.name`; None unless the advantage reads them
  success: Float[Array, 'N'] | None = None  # the head's probability at each row's last token; None without a head
  keep: Bool[Array, 'N'] | None = None  # whether a row is trained on; None for all rows
  weight: Float[Array, 'N'] | None = None  # the factor of each row's advantages; None for 1


Metrics = dict[str, jax.Array]

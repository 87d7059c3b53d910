"""The arrays the rooms share.

Conventions, stated once. `P` prompts, `G` samples a prompt, `N = P * G` rows, group-major: row `p * G + g` is sample `g` of
prompt `p`. `L` is the padded prompt width, prompts are padded on the left so that every response starts in column `L`. `T` is
the horizon in response tokens. Index `t` of a response array belongs to response token `t`: its log-probability, and the value
and regret of the state it was drawn from. Public functions take NumPy's arrays of every width as well: see `takes_numpy`.

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


class StopReason(enum.IntEnum):
  """Why a row ended."""

  LENGTH = 0  # it reached the horizon
  EOS = 1  # it wrote an end token
  STOPPED = 2  # a stop rule ended it: an absorbing failure


class Prompts(flax.struct.PyTreeNode):
  """A batch of prompts, padded on the left. On the host until the mesh gets them."""

  tokens: Int[Array | np.ndarray, 'P L']
  lengths: Int[Array | np.ndarray, 'P']
  ids: UInt32[Array | np.ndarray, 'P']  # names the problem in the random key of its samples


class SupervisedBatch(NamedTuple):
  """Prompts with written responses. Prompts are padded on the left to `L` columns, responses on the right to `T`."""

  tokens: Int[np.ndarray, 'B L+T']
  prompt_lengths: Int[np.ndarray, 'B']
  response_lengths: Int[np.ndarray, 'B']  # the end token included


class Depth(flax.struct.PyTreeNode):
  """How many blocks some tokens ran through, and how likely that was."""

  blocks: Int[Array, '...']
  logprobs: Float[Array, '...']  # of the decisions where to exit; 0 where nothing was drawn


class Trajectories(flax.struct.PyTreeNode):
  """Finished rows of a rollout; what the engine returns and every later room reads.

  The columns `trained_from .. length` are trained on: up to and with the end token or the token that triggered a stop. A shadow
  row is a stopped row that went on decoding for measurement only: its columns `length .. full_length` are never trained on.
  Columns past `full_length` hold the pad token and zeros; those before `trained_from` hold tokens that the row was given, not
  sampled, and zeros.
  """

  prompt_tokens: Int[Array, 'N L']
  prompt_lengths: Int[Array, 'N']
  tokens: Int[Array, 'N T']
  logprobs: Float[Array, 'N T']  # of the distribution that sampled
  values: Float[Array, 'N T']  # V(s_t)
  regret: Float[Array, 'N T']  # surrogate regret g_t >= 0, nats
  z: Float[Array, 'N T']  # the stop rule's smoothed statistic
  trained_from: Int[Array, 'N']  # response tokens that the row begins with and did not sample; 0 but in a serial rollout
  length: Int[Array, 'N']
  full_length: Int[Array, 'N']
  stop_reason: Int[Array, 'N']
  started: Int[Array, 'N']  # the decode step of the rollout at which the row took a slot
  shadow: Bool[Array, 'N']  # stopped, and went on for measurement
  depth: Depth | None = None  # [N, T]: of the state that token t was drawn from; None where the model has no exits

  @property
  def joint_logprobs(self) -> Float[Array, 'N T']:
    """The log-probabilities of the tokens and of the exits before them."""
    return self.logprobs if self.depth is None else self.logprobs + self.depth.logprobs

  def depth_share(self, layers: int) -> Float[Array, 'N']:
    """The share of `layers` blocks that the states of a row's tokens ran through, on average; 1 without exits."""
    if self.depth is None:
      return jnp.ones(self.length.shape)
    ran = jnp.where(self.mask, self.depth.blocks, 0).sum(axis=1)
    return ran / (layers * jnp.maximum(self.mask.sum(axis=1), 1))

  @property
  def mask(self) -> Bool[Array, 'N T']:
    """True on the tokens that count: sampled, and not past a stop."""
    columns = jnp.arange(self.tokens.shape[-1])
    return (columns >= self.trained_from[..., None]) & (columns < self.length[..., None])

  @property
  def stopped(self) -> Bool[Array, 'N']:
    """True where a stop rule ended the row."""
    return self.stop_reason == StopReason.STOPPED

  @property
  def truncated(self) -> Bool[Array, 'N']:
    """True where the horizon cut the row."""
    return self.stop_reason == StopReason.LENGTH


class Verdicts(flax.struct.PyTreeNode):
  """What the host says of rows, because it alone reads text. It is on the host until the mesh gets it.

  A response that could not be graded counts as wrong.
  """

  correct: Float[Array | np.ndarray, 'N']  # how right the whole text is, in [0, 1]
  formatted: Bool[Array | np.ndarray, 'N']  # the text matches `reward.format`
  reasoned: Bool[Array | np.ndarray, 'N']  # the text matches `reward.reasoning`
  levels: Int[Array | np.ndarray, 'N']  # which of `rollout.tags` the prompt carries
  timeout: Bool[Array | np.ndarray, 'N']  # the grader had no time left
  error: Bool[Array | np.ndarray, 'N']  # the grader failed
  scores: dict[str, Float[Array | np.ndarray, 'N']] = flax.struct.field(default_factory=dict)  # of rewards that read text


class Reward(flax.struct.PyTreeNode):
  """What a reward function returns: one number a row, optionally one a token."""

  sequence: Float[Array, 'N']
  dense: Float[Array, 'N T'] | None = None
  extras: dict[str, Bool[Array, 'N']] = flax.struct.field(default_factory=dict)  # what objectives read of rows, by name


Metrics = dict[str, jax.Array]


Function = TypeVar('Function', bound=Callable[..., Any])
_TAKING: weakref.WeakSet[Callable[..., Any]] = weakref.WeakSet()


def takes_numpy(function: Function) -> Function:
  """Makes `function` take NumPy arrays of every width where it takes jax arrays, alone or inside of pytrees.

  NumPy's default widths are twice those of jax. Mixed into a computation they ask for dtypes that jax does not have, or bring
  integers that it cannot hold. Narrow ones overflow. Numbers among the keywords, which are options, stay what they are. A
  function that does so already is given back as it is.
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

"""What stays the same while rows are decoded: the model, the options, and where each row starts."""

import dataclasses

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from espo_jax.model import ActorCritic, Caches, Params, States, widen_rows, write_rows
from espo_jax.rollout.sampling import Sampling
from espo_jax.stops import StopRule
from espo_jax.types import Prompts


class Start(flax.struct.PyTreeNode):
  """Where each row starts: row `n` uses prompt `n // samples` and keeps the first `first[n]` response tokens in the cache."""

  prompts: Prompts
  states: States  # after the token before a row's first one, per prompt; unused where that first token is given
  caches: Caches  # per prompt; its lengths count the prompts alone
  first: Int[Array, 'N']  # response tokens that are kept from the cache
  limit: Int[Array, 'N']  # the most response tokens of the row; it counts the given ones
  keys: Key[Array, 'N']
  shadow: Bool[Array, 'N']  # the row goes on decoding after a stop, for measurement only
  given: Int[Array, 'N']  # response tokens that are not drawn: those from the cache, then the inducer


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Setup:
  """What every piece of the engine reads and none changes. It is never carried through a loop.

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
    scan_length: The most decode steps between two times that what was decoded is written out.
    critic_every: The number of tokens that a separate critic reads at a time.
    exit_level: The level of the model's exit policy, where it has one.
    inducer: Tokens forced on every row behind those kept from the cache.
    mesh: The mesh that the parameters lie on; None for a single device.
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
  inducer: tuple[int, ...] = ()
  mesh: jax.sharding.Mesh | None = None

  @property
  def rows(self) -> int:
    """The number of rows."""
    return self.start.first.shape[0]

  @property
  def group(self) -> int:
    """Tokens per slot between two readings of the critic; 1 where the critic reads along with the policy."""
    return self.critic_every if self.model.separate_critic else 1

  @property
  def steps(self) -> int:
    """The most decode steps before what was decoded is written out: whole groups."""
    return -(-self.scan_length // self.group) * self.group

  @property
  def columns(self) -> int:
    """Columns of a slot's cache. A group's last tokens may lie past a row's end; they are read like the others."""
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
  """Where each row starts, with the tokens that it is given: `first` of them from the cache, then the inducer."""
  return Start(prompts, states, caches, first, limit, keys, shadow, given=first + len(inducer))


def slot_count(slots: int, rows: int) -> int:
  """How many slots decode `rows` rows where `slots` were asked for: at most one per row, and 0 asks for that many."""
  return min(slots or rows, rows)


def prefill(model: ActorCritic, params: Params, prompts: Prompts, at_a_time: int) -> tuple[States, Caches]:
  """Read each prompt once.

  `Prompts` are padded on the left, so that prompt and response concatenate to the sequence that the learner scores. A cache is
  padded on the right, so that token `t` of a row stands in column `t`. The prompts are shifted here.

  Args:
    model: Policy and critic.
    params: The parameters of policy and critic.
    prompts: `P` prompts.
    at_a_time: The most prompts that are read at a time.

  Returns:
    The states of the prompts' last tokens, and caches of the prompts' columns.
  """
  count, width = prompts.tokens.shape
  lengths = jnp.asarray(prompts.lengths)
  from_right = (jnp.arange(width) + width - lengths[:, None]) % width
  tokens = jnp.take_along_axis(jnp.asarray(prompts.tokens), from_right, axis=1)
  parts = -(-count // at_a_time)
  at_a_time = -(-count // parts)
  padding = parts * at_a_time - count
  tokens, lengths = jnp.pad(tokens, ((0, padding), (0, 0))), jnp.pad(lengths, (0, padding), constant_values=1)

  def part(i: Array, done: tuple[States, Caches]) -> tuple[States, Caches]:
    start = i * at_a_time
    some, many = (jax.lax.dynamic_slice_in_dim(x, start, at_a_time) for x in (tokens, lengths))
    return write_rows(done, model.prefill(params, some, many), start)

  first = model.prefill(params, tokens[:at_a_time], lengths[:at_a_time])
  if parts == 1:
    return first
  return jax.lax.fori_loop(1, parts, part, widen_rows(first, parts))

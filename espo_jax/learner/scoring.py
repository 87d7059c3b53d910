"""A teacher-forced pass over finished rows. It gives log-probabilities, entropy and values, without a `[N, T, V]` array.

An exact divergence from a reference costs one more pass per update. Its logits exist one chunk at a time, as all others do.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt32

from espo_jax.learner.chunks import by_chunk
from espo_jax.learner.packing import Packing, unpacked
from espo_jax.learner.readout import read_tokens, read_under
from espo_jax.model import ActorCritic, Forced, Params, States
from espo_jax.objectives import softmax_ce


class Scored(NamedTuple):
  """The scores of given responses. All arrays are float32."""

  logprobs: Float[Array, 'N T']
  entropy: Float[Array, 'N T']  # nats
  values: Float[Array, 'N T']
  final_values: Float[Array, 'N']  # of the state after column T - 1; meaningful where the horizon cut the row
  entropy_slope: Float[Array, 'N T']  # first-order change of the entropy along the token's own logit gradient
  opening_logprobs: Float[Array, 'N V']  # of all candidates for the first response token
  reference_kl: Float[Array, 'N T'] | None  # KL of the whole distribution from the reference's, nats
  exit_logprobs: Float[Array, 'N T'] | None  # of the exit decisions behind the token's state; None at full depth

  @property
  def joint_logprobs(self) -> Float[Array, 'N T']:
    """The log-probabilities of tokens and exits together, because an exit is an action too (arXiv 2603.21376)."""
    return self.logprobs if self.exit_logprobs is None else self.logprobs + self.exit_logprobs


def score(
  model: ActorCritic,
  params: Params,
  prompt_tokens: Int[Array, 'N L'],
  prompt_lengths: Int[Array, 'N'],
  tokens: Int[Array, 'N T'],
  *,
  temperature: float,
  chunk: int,
  against: Params | None = None,
  packing: Packing | None = None,
  blocks: Int[Array, 'N T'] | None = None,
  route: UInt32[Array, 'N T R'] | None = None,
  keep: Float[Array, 'N layers'] | None = None,
  exit_level: float = 0.0,
  likelihood: Callable[[Array], Array] = softmax_ce,
) -> Scored:
  """Scores responses under the distribution that samples at `temperature`.

  Args:
    model: Policy and critic.
    params: The parameters of policy and critic.
    prompt_tokens: The prompts, padded on the left.
    prompt_lengths: The number of tokens of each prompt.
    tokens: The responses. Results past a row's end are meaningless, and the caller must mask them.
    temperature: The sampler's temperature, a static number because it is constant in a run.
    chunk: The number of tokens whose logits are in memory at a time. It is rounded to whole columns of all sequences.
    against: The parameters of a reference policy; they add a forward pass and the exact divergence from it. None for neither.
    packing: The places of the rows in sequences; None for one sequence per row.
    blocks: The number of blocks that each token's state ran through; None for all. The reference always runs through all.
    route: The blocks that each token's state ran through, as in `Depth.route`; None without a router.
    keep: The share of each block's change that the tokens of a response keep; None for all of it. It excludes `route`.
    exit_level: The level of the model's exit policy.
    likelihood: The function from logits to log-probabilities. Another one than `softmax_ce` excludes `against`, has a gradient
      that recomputes each chunk, and leaves the entropy's slope that of a softmax.

  Raises:
    ValueError: There is a reference under another likelihood.
  """
  width, horizon = prompt_tokens.shape[1], tokens.shape[1]
  if packing is None:
    packing = unpacked(prompt_lengths, horizon, width + horizon)
  whole = jnp.concatenate([prompt_tokens, tokens], axis=1)
  columns = (width - prompt_lengths)[packing.row] + packing.index  # of `whole`
  given = whole[packing.row, columns]
  following = whole[packing.row, jnp.minimum(columns + 1, width + horizon - 1)]

  forced = None
  if blocks is not None:
    drawn_next = packing.index + 1 - prompt_lengths[packing.row]  # the response's token whose state this column is
    free = jnp.asarray(packing.real) & (drawn_next > 0) & (drawn_next < horizon)
    place = packing.row, jnp.clip(drawn_next, 0, horizon - 1)
    through = None if route is None else jnp.where(free[..., None], route[place], jnp.uint32(2**32 - 1))
    soft = None if keep is None else jnp.where(free[..., None], keep[packing.row], 1.0)
    forced = Forced(jnp.where(free, blocks[place], model.config.num_layers), free, jnp.float32(exit_level), through, soft)

  def trunk(params: Params, forced: Forced | None) -> States:
    index, segments, prompts = jax.tree.map(jnp.asarray, (packing.index, packing.segments, packing.prompts))
    return model.states(params, given, index, segments, forced, prompts)  # [B, W, D]: after each token

  states = trunk(params, forced)
  values = model.values(params, states)

  def head(weights: Params) -> Callable[[Float[Array, 'B C D']], Float[Array, 'B C V']]:
    return lambda hidden: model.logits(weights, States(hidden, hidden)) / temperature

  inputs: tuple[Array, ...] = following, states.policy
  if likelihood is not softmax_ce:
    if against is not None:
      raise ValueError('a divergence from a reference is that of the softmax; fix: no other likelihood, or against = None')
    parts = by_chunk(functools.partial(read_under, likelihood, head(params)), chunk, *inputs)
  else:
    read = functools.partial(read_tokens, head(params))
    if against is not None:
      read, inputs = functools.partial(read, reference=head(against)), (*inputs, trunk(against, None).policy)
    parts = by_chunk(read, chunk, *inputs, recompute=False)

  last_of_prompt = packing.start + prompt_lengths - 1
  column = jnp.minimum(
    last_of_prompt[:, None] + jnp.arange(horizon + 1), given.shape[1] - 1
  )  # the state before each token, and after the last

  def by_row(x: Float[Array, 'B W']) -> Float[Array, 'N U']:
    return x[packing.sequence[:, None], column]

  logprobs, entropy, slope, *kl = (by_row(x)[:, :-1] for x in parts)
  exits = None if states.depth is None else by_row(states.depth.logprobs)[:, :-1]
  values = by_row(values)
  opening = likelihood(head(params)(states.policy[packing.sequence, last_of_prompt]))
  return Scored(logprobs, entropy, values[:, :-1], values[:, -1], slope, opening, kl[0] if kl else None, exits)

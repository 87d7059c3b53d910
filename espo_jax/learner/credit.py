"""The advantages and returns of a batch, from the rewards of its rows and what its stopped rows return."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from espo_jax import objectives, registry, rewards
from espo_jax.learner import roulette
from espo_jax.learner.kept import in_baseline
from espo_jax.objectives import group_scores, masked_mean, on_tokens
from espo_jax.registry import inputs
from espo_jax.types import Metrics, Reward, Trajectories


@dataclasses.dataclass(frozen=True)
class Credit:
  """How advantages are computed.

  Attributes:
    advantage: The name of a registered advantage.
    options: The keyword arguments of the advantage, by name.
    reward: The expression over registered rewards.
    samples: `G`, the number of rows per prompt.
    stop_returns: What a stopped row returns: see `rewards.stop_reward`.
    fail_reward: `r_fail`, the reward of the token that triggered a stop under 'fail'.
    shadow_share: The share of stopped rows that decode on.
    baseline: The rows that the statistics of a group are taken over: those that are 'kept', or 'all', in which pruned rows
      score 0.
  """

  advantage: str
  options: Mapping[str, Any]
  reward: str
  samples: int
  stop_returns: str
  fail_reward: float
  shadow_share: float
  baseline: str

  def of(
    self, rows: Trajectories, reward: Reward, values: Float[Array, 'N S'], cost: Float[Array, 'N T']
  ) -> tuple[Float[Array, 'N T'], Float[Array, 'N T']]:
    """Returns advantages and returns.

    Rows that are not kept have no advantage.

    Args:
      rows: The rows as the stop rule ended them.
      reward: The rewards of the rows.
      values: The learner's value of the states before and after every token; there are `S = T + 1`.
      cost: What each token costs, such as its divergence from the reference.
    """
    if self.stop_returns != 'roulette':
      return self._of(rows, reward, values, cost)
    settings = registry.defaults(objectives.ADVANTAGES[self.advantage].function) | dict(self.options)
    plain = {'whiten': False} if 'whiten' in settings else {}
    cut, complete = (self._of(its, reward, values, cost, **plain) for its in (rows, rows.whole()))
    return roulette.unbiased(rows, cut, complete, share=self.shadow_share, whiten=bool(settings.get('whiten', False)))

  def _of(
    self, rows: Trajectories, reward: Reward, values: Float[Array, 'N S'], cost: Float[Array, 'N T'], **changes: Any
  ) -> tuple[Float[Array, 'N T'], Float[Array, 'N T']]:
    after = jnp.take_along_axis(values, rows.length[:, None], axis=1)[:, 0]
    paid = jnp.broadcast_to(rewards.stop_reward(self.stop_returns, self.fail_reward, after, reward.success), after.shape)
    placed = rewards.token_rewards(rows, reward, stopped=paid) - jnp.where(rows.mask, cost, 0.0)
    function, critic = objectives.ADVANTAGES[self.advantage]
    scores = group_scores(placed, rows.mask, self.samples)
    keep = None
    if reward.keep is not None:
      keep = in_baseline(rows, reward.keep.reshape(scores.shape), self.baseline)
      rows = rows.without(~reward.keep)
    read: dict[str, Array | None] = {
      'rewards': placed,
      'values': rows.values,
      'final_values': after,
      'truncated': rows.truncated,
      'mask': rows.mask,
      'scores': scores,
      'keep': keep,
    }
    if reward.parts is not None:
      parts = scored_parts(rows, reward.parts, paid)
      read['parts'] = parts.reshape(-1, self.samples, parts.shape[-1])
      read['weights'] = jnp.asarray(rewards.weights(self.reward), parts.dtype)
    found = function(*(read[name] for name in inputs(function)), **{**self.options, **changes})
    return found if critic else (on_tokens(found, rows.mask), jnp.zeros_like(placed))


def scored_parts(rows: Trajectories, parts: Float[Array, 'N K'], paid: float | Float[Array, 'N']) -> Float[Array, 'N K']:
  """Returns the summands of the reward; in each of them a stopped row scores what it returns."""
  return jnp.where(rows.stopped[:, None], jnp.broadcast_to(jnp.asarray(paid), rows.length.shape)[:, None], parts)


def at_last(x: Float[Array, 'N T'], rows: Trajectories) -> Float[Array, 'N']:
  """Returns the entry of each row's last token before its end or stop."""
  return jnp.take_along_axis(x, rows.length[:, None] - 1, axis=1)[:, 0]


def sampler_gap(
  difference: Float[Array, 'N T'], mask: Bool[Array, 'N T'], *, clip_low: float = 0.2, clip_high: float = 0.2
) -> Metrics:
  """Returns metrics of the gap between sampler and learner. Ideally every ratio at the start of an update is 1.

  Args:
    difference: The learner's log-probability of each token minus the sampler's.
    mask: True on the tokens that count.
    clip_low: How far below 1 the objective's ratio counts.
    clip_high: How far above 1 it counts.
  """
  size = jnp.where(mask, jnp.abs(difference), jnp.nan)
  ratio = jnp.exp(difference)
  outside = (ratio < 1 - clip_low) | (ratio > 1 + clip_high)
  return {
    'sampler_gap/mean': masked_mean(jnp.abs(difference), mask),
    'sampler_gap/p95': jnp.nanpercentile(size, 95),
    'sampler_gap/max': jnp.nanmax(size),
    'sampler_gap/outside_clip': masked_mean(outside.astype(jnp.float32), mask),
  }

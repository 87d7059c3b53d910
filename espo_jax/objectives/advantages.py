"""Advantages: one per token from a critic, or one per row from the scores of a prompt's samples."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from espo_jax.objectives.gae import gae
from espo_jax.objectives.masked import whiten as whitened
from espo_jax.objectives.terms import row_sum
from espo_jax.registry import Method, Register, source
from espo_jax.types import takes_numpy

OF_CRITIC = {
  'rewards': "the reward of each token, a stopped row's failure among them, [N, T]",
  'values': 'the value of the state that each token was drawn from, [N, T]',
  'final_values': "the value of the state after each row's last token, [N]",
  'truncated': 'whether the horizon cut the row, [N]',
  'mask': 'true on the tokens that count, [N, T]',
}
OF_GROUP = {
  'scores': "the summed rewards of each prompt's samples, [P, G]",
  'parts': 'the summands of `reward.name` apart, without their weights, [P, G, K]',
  'weights': 'the weights of these summands, [K]',
  'keep': 'whether a row counts in the statistics of its group; None where all do, [P, G]',
}


class Advantage(NamedTuple):
  """A registered advantage.

  Attributes:
    function: The estimator. With a critic it reads arrays of `OF_CRITIC` and returns `(advantages[N, T], returns[N, T])`;
      without one it reads arrays of `OF_GROUP` and returns `advantages[P, G]`.
    critic: Whether the estimator reads a critic.
  """

  function: Callable
  critic: bool


ADVANTAGES: Register[Advantage] = Register('advantage', 'advantage.name')


def register(name: str, *, critic: bool = False) -> Callable[[Method], Method]:
  """Makes an advantage known as `advantage.name`.

  An advantage is a function of arrays with the names in `OF_CRITIC` or `OF_GROUP`. Its keyword-only parameters are options, as
  in `--config.advantage.lam=0.95`.

  Args:
    name: The name in `advantage.name`.
    critic: Whether it reads arrays of `OF_CRITIC`, per token, rather than arrays of `OF_GROUP`.

  Raises:
    RegistryError: The name cannot be used, or a parameter is not the name of such an array.
  """
  return ADVANTAGES.decorator(name, OF_CRITIC if critic else OF_GROUP, lambda function: Advantage(function, critic))


def get_advantage(name: str) -> Advantage:
  """The advantage registered as `name`."""
  return ADVANTAGES.find(name)


@register('gae', critic=True)
@source('Schulman et al. 2015, arXiv 1506.02438')
def critic_gae(
  rewards: Float[Array, 'N T'],
  values: Float[Array, 'N T'],
  final_values: Float[Array, 'N'],
  truncated: Bool[Array, 'N'],
  mask: Bool[Array, 'N T'],
  *,
  gamma: float = 1.0,
  lam: float = 1.0,
  whiten: bool = True,
  bootstrap_truncated: bool = False,
) -> tuple[Float[Array, 'N T'], Float[Array, 'N T']]:
  """Generalised advantage estimation (`gae`), optionally whitened. ESPO publishes none of its constants [U].

  Args:
    rewards: The reward of each token.
    values: The value of the state that each token was drawn from.
    final_values: The value of the state after each row's last token.
    truncated: Whether the horizon cut the row.
    mask: True on the tokens that count.
    gamma: The discount [U].
    lam: GAE's lambda [U].
    whiten: Whether advantages are normalised to mean 0 and variance 1 over the batch's real tokens [U].
    bootstrap_truncated: Whether a row that the horizon cut bootstraps from its final value; a stopped row never does [U].

  Returns:
    Advantages, and returns, which are not whitened.
  """
  bootstrap = jnp.where(truncated & bootstrap_truncated, final_values, 0.0)
  advantages, returns = gae(rewards, values, mask, gamma=gamma, lam=lam, bootstrap=bootstrap)
  return whitened(advantages, mask) if whiten else advantages, returns


@register('group_zscore')
@source('GRPO, arXiv 2402.03300')
def group_zscore(
  scores: Float[Array, 'P G'], keep: Bool[Array, 'P G'] | None = None, *, epsilon: float = 1e-6
) -> Float[Array, 'P G']:
  """`(R - mean) / (std + epsilon)` within each group, with the group's population deviation; 0 where all scores are equal.

  Args:
    scores: The scores of each prompt's samples.
    keep: The rows that the mean and the deviation are taken over; None for all.
    epsilon: The constant added to the deviation, which bounds the advantages of groups with a small spread [U].
  """
  return mean_only(scores, keep) / (_group_std(scores, keep) + epsilon)


@register('mean_only')
@source('Dr. GRPO, arXiv 2503.20783; S-GRPO, arXiv 2505.07686')
def mean_only(scores: Float[Array, 'P G'], keep: Bool[Array, 'P G'] | None = None) -> Float[Array, 'P G']:
  """`R - mean` within each group. Prompts with a small spread of scores, hard or easy ones, are not weighted up.

  Args:
    scores: The scores of each prompt's samples.
    keep: The rows that the mean is taken over; None for all.
  """
  return _kept(_centred(scores, keep), keep)


@register('loo')
@source('RLOO, arXiv 2402.14740; Kool et al. 2019')
def loo(scores: Float[Array, 'P G'], keep: Bool[Array, 'P G'] | None = None) -> Float[Array, 'P G']:
  """`R` minus the mean of the group's other scores, an unbiased baseline. It is `G / (G - 1)` times `mean_only`.

  Args:
    scores: The scores of each prompt's samples.
    keep: The rows that means are taken over, `G` in number; None for all. A row without others has advantage 0.
  """
  if keep is None:
    group = scores.shape[1]
    return mean_only(scores) * (group / (group - 1))
  count = keep.sum(axis=1, keepdims=True)
  return mean_only(scores, keep) * (count / jnp.maximum(count - 1, 1))


@register('score')
@source('REINFORCE, Williams 1992')
def score(scores: Float[Array, 'P G'], keep: Bool[Array, 'P G'] | None = None) -> Float[Array, 'P G']:
  """The score `R` without a baseline.

  Args:
    scores: The scores of each prompt's samples.
    keep: The rows that have an advantage; None for all.
  """
  return _kept(scores, keep)


@register('maxrl')
@source('MaxRL, arXiv 2602.02710')
def maxrl(scores: Float[Array, 'P G'], keep: Bool[Array, 'P G'] | None = None, *, epsilon: float = 1e-6) -> Float[Array, 'P G']:
  """`(R - mean) / mean` within each group; 0 where no score is above 0.

  With scores of 0 and 1 its expected gradient is that of a truncated log-likelihood of success, in which a prompt that is
  solved once in `n` samples weighs `n` times as much. Scores must not be negative: `stop.returns` should be 'zero'.

  Args:
    scores: The scores of each prompt's samples.
    keep: The rows that the mean is taken over; None for all.
    epsilon: The constant added to the mean [U].
  """
  mean = _group_mean(scores, keep)
  return jnp.where(mean > 0, mean_only(scores, keep) / (jnp.maximum(mean, 0.0) + epsilon), 0.0)


@register('gdpo')
@source('GDPO, arXiv 2601.05242')
def gdpo(
  parts: Float[Array, 'P G K'],
  weights: Float[Array, 'K'],
  keep: Bool[Array, 'P G'] | None = None,
  *,
  epsilon: float = 1e-6,
  whiten: bool = True,
) -> Float[Array, 'P G']:
  """The weighted sum of the rewards' own z-scores, whitened over the batch.

      A_i = sum_k w_k (R_ik - mean_k) / (std_k + epsilon)

  `group_zscore` sums the rewards first, so different rewards with the same sum become one advantage. Here the summands of
  `reward.name` are normalised apart: in `correct + 0.5 * overlong` they are `correct` and, with the weight 0.5, `overlong`. A
  stopped row scores what it returns in each of them.

  Args:
    parts: The summands of each prompt's samples.
    weights: The weights of the summands.
    keep: The rows that means and deviations are taken over; None for all.
    epsilon: The constant added to each deviation [U].
    whiten: Whether advantages are normalised to mean 0 and variance 1 over the batch.
  """
  summed = _kept((_centred(parts, keep) / (_group_std(parts, keep) + epsilon)) @ weights, keep)
  return whitened(summed, jnp.ones(summed.shape, bool) if keep is None else keep) if whiten else summed


def _group_mean(scores: Float[Array, 'P G *K'], keep: Bool[Array, 'P G'] | None) -> Float[Array, 'P 1 *K']:
  """Returns the mean of each group's kept scores; 0 for a group without any."""
  if keep is None:
    return scores.mean(axis=1, keepdims=True)
  kept = keep.reshape(*keep.shape, *[1] * (scores.ndim - 2))
  return jnp.where(kept, scores, 0.0).sum(axis=1, keepdims=True) / jnp.maximum(kept.sum(axis=1, keepdims=True), 1)


def _centred(scores: Float[Array, 'P G *K'], keep: Bool[Array, 'P G'] | None) -> Float[Array, 'P G *K']:
  """Returns the scores minus the mean of their group; exactly 0 where all kept scores are equal."""
  kept = jnp.ones(scores.shape, bool) if keep is None else keep.reshape(*keep.shape, *[1] * (scores.ndim - 2))
  highest = jnp.where(kept, scores, -jnp.inf).max(axis=1, keepdims=True)
  lowest = jnp.where(kept, scores, jnp.inf).min(axis=1, keepdims=True)
  return jnp.where(highest > lowest, scores - _group_mean(scores, keep), 0.0)


def _group_std(scores: Float[Array, 'P G *K'], keep: Bool[Array, 'P G'] | None) -> Float[Array, 'P 1 *K']:
  """Returns the population deviation of each group's kept scores; 0 for a group without any."""
  if keep is None:
    return scores.std(axis=1, keepdims=True)
  return jnp.sqrt(_group_mean(jnp.square(scores - _group_mean(scores, keep)), keep))


def _kept(advantages: Float[Array, 'P G'], keep: Bool[Array, 'P G'] | None) -> Float[Array, 'P G']:
  return advantages if keep is None else jnp.where(keep, advantages, 0.0)


@takes_numpy
def group_scores(rewards: Float[Array, 'N T'], mask: Bool[Array, 'N T'], samples: int) -> Float[Array, 'P G']:
  """The summed rewards of each row, including the failure reward of a stop, by prompt."""
  return row_sum(rewards, mask).reshape(-1, samples)


@takes_numpy
def on_tokens(advantages: Float[Array, 'P G'], mask: Bool[Array, 'N T']) -> Float[Array, 'N T']:
  """Each row's advantage on all of its real tokens, 0 elsewhere."""
  return jnp.where(mask, advantages.reshape(-1, 1), 0.0)

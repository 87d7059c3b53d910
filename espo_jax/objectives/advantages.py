"""Advantages: from a critic, token by token, or from a prompt's other samples, one number a row."""

from collections.abc import Callable
from typing import NamedTuple

import flax.struct
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from espo_jax.objectives.gae import gae
from espo_jax.objectives.masked import whiten as whitened
from espo_jax.objectives.terms import row_sum
from espo_jax.registry import source, unknown
from espo_jax.types import takes_numpy


class Credit(flax.struct.PyTreeNode):
  """What advantages are made of, row by row."""

  rewards: Float[Array, 'N T']
  values: Float[Array, 'N T']  # of the state each token was drawn from
  final_values: Float[Array, 'N']  # of the state after the last column
  truncated: Bool[Array, 'N']  # cut by the horizon
  mask: Bool[Array, 'N T']


class Advantage(NamedTuple):
  """A registered advantage.

  Attributes:
    function: The estimator. With a critic `(Credit, **options) -> (advantages[N, T], returns[N, T])`; without one
      `(scores[P, G], **options) -> advantages[P, G]`, of rows' summed rewards.
    critic: Whether the estimator reads a critic.
  """

  function: Callable
  critic: bool


@source('Schulman et al. 2015, arXiv 1506.02438')
def critic_gae(
  x: Credit,
  *,
  gamma: float = 1.0,
  lam: float = 1.0,
  whiten: bool = True,
  bootstrap_truncated: bool = False,
) -> tuple[Float[Array, 'N T'], Float[Array, 'N T']]:
  """`gae`, whitened or not. ESPO publishes none of its constants [U].

  Args:
    x: The rows.
    gamma: Discount [U].
    lam: GAE's lambda [U].
    whiten: Whether advantages get mean 0 and variance 1 over the batch's real tokens [U].
    bootstrap_truncated: Whether a row that the horizon cut counts on its last state's value; a stopped row never does [U].

  Returns:
    Advantages, and returns, which whitening leaves alone.
  """
  bootstrap = jnp.where(x.truncated & bootstrap_truncated, x.final_values, 0.0)
  advantages, returns = gae(x.rewards, x.values, x.mask, gamma=gamma, lam=lam, bootstrap=bootstrap)
  return whitened(advantages, x.mask) if whiten else advantages, returns


@source('GRPO, arXiv 2402.03300')
def group_zscore(scores: Float[Array, 'P G'], *, epsilon: float = 1e-6) -> Float[Array, 'P G']:
  """`(R - mean) / (std + epsilon)` within each group, with the group's population deviation; 0 where all scores are equal.

  Args:
    scores: The scores of each prompt's samples.
    epsilon: Keeps a small spread from blowing up [U].
  """
  return mean_only(scores) / (scores.std(axis=1, keepdims=True) + epsilon)


@source('Dr. GRPO, arXiv 2503.20783; S-GRPO, arXiv 2505.07686')
def mean_only(scores: Float[Array, 'P G']) -> Float[Array, 'P G']:
  """`R - mean` within each group: a hard or an easy prompt counts no more for its small spread."""
  return scores - scores.mean(axis=1, keepdims=True)


@source('RLOO, arXiv 2402.14740; Kool et al. 2019')
def loo(scores: Float[Array, 'P G']) -> Float[Array, 'P G']:
  """`R` less the mean of the group's other scores, which is `G / (G - 1)` times `mean_only`: a baseline without bias."""
  group = scores.shape[1]
  return mean_only(scores) * (group / (group - 1))


@source('REINFORCE, Williams 1992')
def score(scores: Float[Array, 'P G']) -> Float[Array, 'P G']:
  """`R` itself, without a baseline."""
  return scores


ADVANTAGES: dict[str, Advantage] = {
  'gae': Advantage(critic_gae, critic=True),
  'group_zscore': Advantage(group_zscore, critic=False),
  'mean_only': Advantage(mean_only, critic=False),
  'loo': Advantage(loo, critic=False),
  'score': Advantage(score, critic=False),
}


def get_advantage(name: str) -> Advantage:
  """The advantage registered as `name`."""
  if name not in ADVANTAGES:
    raise ValueError(unknown('advantage.name', name, name, ADVANTAGES))
  return ADVANTAGES[name]


@takes_numpy
def group_scores(rewards: Float[Array, 'N T'], mask: Bool[Array, 'N T'], samples: int) -> Float[Array, 'P G']:
  """Rows' summed rewards, a stopped row's failure among them, prompt by prompt."""
  return row_sum(rewards, mask).reshape(-1, samples)


@takes_numpy
def on_tokens(advantages: Float[Array, 'P G'], mask: Bool[Array, 'N T']) -> Float[Array, 'N T']:
  """A row's one advantage on each of its real tokens."""
  return jnp.where(mask, advantages.reshape(-1, 1), 0.0)

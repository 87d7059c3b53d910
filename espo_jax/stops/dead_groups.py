"""A stop rule of ours that ends the groups which will teach nothing, because their rows will all be wrong or all be right."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from espo_jax.registry import source
from espo_jax.stops import evidence
from espo_jax.stops.controller import Control, Memory, controlled_rule
from espo_jax.stops.head import forecast, with_head
from espo_jax.stops.registered import register
from espo_jax.stops.rule import Adaptive, GroupRule, Observation, StopRule, StopState
from espo_jax.types import takes_numpy


@takes_numpy
def group_is_dead(success: Float[Array, 'P G'], doubt: float) -> Bool[Array, 'P']:
  """Returns whether the rows of a group all end wrong, or all end right, with a probability above `1 - doubt`.

  The rows' verdicts count as independent. Rows of a prompt share the error of the forecast, so `doubt` is not an error rate.

  Args:
    success: The probability that each row ends right.
    doubt: The highest probability of differing verdicts at which a group counts as dead.
  """
  wrong, right = jnp.prod(1 - success, axis=1), jnp.prod(success, axis=1)
  return jnp.maximum(wrong, right) > 1 - doubt


@register('dead_groups')
@source('ours; a group as a whole after Selective Rollout, arXiv 2605.05802')
def dead_groups(*, group_tokens: int = 64, doubt: float = 0.05, memory: float = 0.9, momentum: float = 0.99) -> StopRule:
  """Ends all rows of a prompt once the head is sure, from their first `group_tokens` tokens, that they share one verdict.

  Such a group has no group-relative advantages. Selective Rollout judges a group by how much its rows resemble each other,
  which suits actions but not text. The score of a token is the head's probability that the row ends right. Set
  `stop.returns = 'drop'`, and `rollout.max_draws` above 1 to have other groups drawn instead.

  Args:
    group_tokens: The number of tokens of each row by which a group is judged. Rows are decoded at least so far, and up
      to as many tokens more until the group is judged.
    doubt: The highest probability of differing verdicts at which a group is ended.
    memory: The factor by which what earlier batches left behind in the head decays.
    momentum: The momentum of the running moments of the regret.
  """

  def score(state: StopState, seen: Observation) -> Array:
    del seen
    assert state.adaptive.head is not None  # `with_head` sets it
    return forecast(state.adaptive.head, state.row).success

  def threshold(adaptive: Adaptive, values: Array) -> Array:
    del adaptive
    return jnp.full(values.shape, jnp.inf)  # no row ends alone

  still = Control(0.0, beta_max=0.0, eta=0.0, target_rate=0.0, momentum=momentum)
  rule = controlled_rule(score, threshold, still, Memory(evidence.first, evidence.step, evidence.READS))
  group = GroupRule(group_tokens, lambda scores: group_is_dead(scores, doubt))
  return with_head(rule, memory=memory)._replace(group=group)

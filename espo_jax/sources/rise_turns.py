"""RISE: a conversation in which a wrong answer is followed by a better one."""

import math
from collections.abc import Iterator, Sequence

from espo_jax.registry import source
from espo_jax.sources.judge import Judge
from espo_jax.sources.registered import register
from espo_jax.sources.rollouts import Asked, Rollout
from espo_jax.tasks import Example, Segment

KEPT = ('all', 'best', 'success')


def reward_weight(reward: float, tau: float = 0.4) -> float:
  """Computes `exp(reward / tau)`, the weight of an example in reward-weighted regression.

  Raises:
    ValueError: `tau` is not above 0, or so low that the weight is no float.
  """
  if not tau > 0 or reward / tau > 80:  # float32 ends at e^88
    raise ValueError(f'tau={tau}: out of range; fix: a number above 0, such as 0.4')
  return math.exp(reward / tau)


@register('rise_turns')
@source('RISE, arXiv 2407.18219, its release; turns from independent rollouts are ours', 'tau')
def rise_turns(
  problems: Sequence[Asked],
  judge: Judge,
  *,
  kept: str = 'best',
  tau: float = 0.4,
  message: str = 'Your answer is incorrect. Try again.',
) -> Iterator[Example]:
  """Two turns: a wrong rollout and the message, both without loss, then another rollout of the same problem.

      loss = sum_i exp(R_i / tau) sum_t -log pi(a_it | s_it) / (number of tokens of all second turns)

  `R` is 1 for a right second turn and 0 for a wrong one. The weight stands in the example, so that the warm start is RISE's
  reward-weighted regression. Its mean is over tokens, and the paper's over turns. The objective `rwr` has the paper's.

  | `kept` | second turns |
  |---|---|
  | 'best' | the best of the problem's other rollouts, the first of several: best of n from the policy itself |
  | 'all' | each other rollout |
  | 'success' | each that is right |

  In the paper the policy answers to the message. Here
  the second turn was sampled without having read the first.

  Args:
    problems: The problems with their rollouts.
    judge: The judge of the rollouts.
    kept: The rule by which second turns are chosen [U].
    tau: The temperature of the weights.
    message: The reply to a wrong turn [U].
  """
  if kept not in KEPT:
    raise ValueError(f'kept={kept}: unknown; fix: one of {", ".join(KEPT)}')
  weights = {correct: reward_weight(float(correct), tau) for correct in (False, True)}
  reply = judge.reply(message)
  for asked in problems:
    for n, first in enumerate(asked.rollouts):
      if first.correct:
        continue
      others = [other for other in asked.rollouts[:n] + asked.rollouts[n + 1 :] if other.ended]
      for second in second_turns(others, kept):
        turn = Segment(first.response, False, judge.ends_apart)
        yield first.example([turn, (reply, False), (second.response, True)], weight=weights[second.correct])


def second_turns(others: Sequence[Rollout], kept: str) -> list[Rollout]:
  """Returns those of the other rollouts that are kept as second turns; `kept` is one of `KEPT`."""
  if kept == 'best':
    return [max(others, key=lambda other: other.correct)] if others else []
  return [other for other in others if other.correct or kept == 'all']

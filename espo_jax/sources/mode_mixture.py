"""A mixture of answers with and without reasoning, some of them asked for by a tag."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from espo_jax.registry import source
from espo_jax.sources.registered import register
from espo_jax.sources.rollouts import Asked, Rollout
from espo_jax.tasks import Example
from espo_jax.tasks.reasoning import emptied_thought, has_thought


class Modes(NamedTuple):
  """A problem with a right response in each mode.

  Attributes:
    rollout: The first right rollout that reasons.
    short: A right response that does not reason.
    accuracy: The share of right rollouts among those that do not reason, or among all if every rollout reasons.
  """

  rollout: Rollout
  short: str
  accuracy: float


@register('mode_mixture')
@source('Adaptive Deep Reasoning, arXiv 2505.20101; AdaCoT, arXiv 2505.11896; shares, tags and labels are ours')
def mode_mixture(
  problems: Sequence[Asked],
  rng: np.random.Generator,
  *,
  long: float = 0.5,
  tagged: float = 0.5,
  long_tag: str = '<long>',
  short_tag: str = '<short>',
) -> Iterator[Example]:
  """One right response per problem, of one of four kinds: long or short, with or without a tag that asks for it.

  | kind | share of the problems | which problems |
  |---|---|---|
  | long, with a tag | `tagged * long` | drawn |
  | short, with a tag | `tagged * (1 - long)` | drawn |
  | long, without a tag | `(1 - tagged) * long` | those that are answered worst without reasoning |
  | short, without a tag | `(1 - tagged) * (1 - long)` | the others |

  A long response has a thought. A short one has an empty thought or none, and is made of the long one by emptying its thought
  if no short rollout is right. The tag begins the response and has no loss, as if `rollout.tags` had appended it to the prompt.
  Problems without a right long rollout are left out. AdaCoT asks another model which prompts need reasoning. Here the accuracy
  of a problem's short rollouts says so, or that of all its rollouts if none is short.

  Args:
    problems: The problems with their rollouts.
    rng: Random numbers.
    long: The share of long responses [U].
    tagged: The share of responses with a tag [U].
    long_tag: The tag that asks for a long response [U].
    short_tag: The tag that asks for a short response [U].
  """
  for name, share in (('long', long), ('tagged', tagged)):
    if not 0 <= share <= 1:
      raise ValueError(f'{name}={share}: out of range; fix: a share in [0, 1]')
  found = [modes for asked in problems if (modes := _modes(asked)) is not None]
  drawn = [int(i) for i in rng.permutation(len(found))]
  with_tag, without = drawn[: round(tagged * len(found))], drawn[round(tagged * len(found)) :]
  worst_first = sorted(without, key=lambda i: found[i].accuracy)
  are_long = {*with_tag[: round(long * len(with_tag))], *worst_first[: round(long * len(without))]}
  have_tag = set(with_tag)
  for i, modes in enumerate(found):
    tag = (long_tag if i in are_long else short_tag) if i in have_tag else ''
    yield modes.rollout.example([(tag, False), (modes.rollout.response if i in are_long else modes.short, True)])


def _modes(asked: Asked) -> Modes | None:
  """Returns the responses of a problem in both modes; None if no right rollout reasons."""
  long = next((rollout for rollout in asked.right if has_thought(rollout.response)), None)
  if long is None:
    return None
  brief = [rollout for rollout in asked.rollouts if rollout.ended and not has_thought(rollout.response)]  # a cut one may reason
  short = next((its.response for its in brief if its.correct), emptied_thought(long.response))
  return Modes(long, short, float(np.mean([rollout.correct for rollout in brief or asked.rollouts])))

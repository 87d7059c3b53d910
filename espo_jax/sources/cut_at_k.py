"""First Try Matters: thoughts that end with their k-th candidate answer."""

from collections.abc import Iterator, Sequence

import numpy as np

from espo_jax.registry import source
from espo_jax.sources.judge import Judge
from espo_jax.sources.registered import register
from espo_jax.sources.rollouts import Asked
from espo_jax.sources.traces import CANDIDATE, SEPARATOR, candidates, read_trace
from espo_jax.tasks import Example


@register('cut_at_k')
@source('First Try Matters, arXiv 2510.08308; the conclusion of the rollout itself is ours')
def cut_at_k(
  problems: Sequence[Asked],
  judge: Judge,
  rng: np.random.Generator,
  *,
  k: int = 1,
  tokens: int = 0,
  separator: str = SEPARATOR,
  candidate: str = CANDIDATE,
) -> Iterator[Example]:
  """Right rollouts whose thought is cut behind its `k`-th candidate answer. The conclusion follows at once.

  The paper finds candidates by a classifier, and lets a model finish the answer. Here a candidate is a step of the thought that
  matches `candidate`, and the conclusion is the rollout's own. A rollout is left out if it has fewer candidates, or if its
  `k`-th is wrong, because its conclusion would not follow. With `tokens`, data for different `k` have about as many tokens,
  which the paper asks of a comparison. The rollouts are then taken in a random order.

  Args:
    problems: The problems with their rollouts.
    judge: The judge of the rollouts.
    rng: Random numbers.
    k: The candidate behind which the thought is cut; the first is 1 [U].
    tokens: The most tokens of all responses together; 0 for no bound [U].
    separator: A regular expression of what ends a step [U].
    candidate: A regular expression of what states an answer [U].
  """
  for name, value, least in (('k', k, 1), ('tokens', tokens, 0)):
    if value < least:
      raise ValueError(f'{name}={value}: out of range; fix: a number of at least {least}')
  rollouts = [(asked, rollout) for asked in problems for rollout in asked.right]
  order = rng.permutation(len(rollouts)) if tokens else range(len(rollouts))
  room = tokens
  for asked, rollout in (rollouts[i] for i in order):
    trace = read_trace(rollout.response, separator)
    stated = candidates(trace, candidate)
    if len(stated) < k or not judge.right(asked, [trace.steps[stated[k - 1]]])[0]:
      continue
    text = ''.join(trace.steps[: stated[k - 1] + 1]) + trace.conclusion
    if tokens:
      room -= judge.tokens(text)
      if room < 0:
        return
    yield rollout.example([(text, True)])

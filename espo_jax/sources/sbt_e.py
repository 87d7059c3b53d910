"""Self-braking tuning, the exact form: a redundant thought ends after its second solution."""

import re
from collections.abc import Iterator, Sequence

from espo_jax.registry import source
from espo_jax.sources.judge import Judge
from espo_jax.sources.redundancy import BRAKING, MARKERS, Score
from espo_jax.sources.registered import register
from espo_jax.sources.rollouts import Asked
from espo_jax.sources.traces import CANDIDATE, SEPARATOR, candidates, first_right, read_trace
from espo_jax.tasks import Example

_SENTENCE_END = re.compile(r'[.!?]+\s+|\n+')


@register('sbt_e')
@source('SBT-E, arXiv 2505.14604', 'threshold', 'marker_weight', 'sentences')
def sbt_e(
  problems: Sequence[Asked],
  judge: Judge,
  *,
  threshold: float = 0.2,
  marker_weight: float = 0.1,
  sentences: int = 2,
  markers: str = MARKERS,
  braking: str = BRAKING,
  separator: str = SEPARATOR,
  candidate: str = CANDIDATE,
) -> Iterator[Example]:
  """Right rollouts. A redundant one keeps its first two solutions, the next sentences without loss, and its conclusion.

      score = marker_weight * kappa + (1 - marker_weight) * (1 - eta)

  `eta` is the share of the thought's steps up to the first right answer, and `kappa` the share of tokens in words of doubt. A
  rollout is redundant if its score is above `threshold`. Others are kept whole. The braking sentence stands before the
  conclusion and has loss, because it is what ends the thought. The paper does not publish how steps and solutions are found.
  Here a solution ends with a step that matches `candidate`, and a step is right if the task's verifier accepts it alone.

  Args:
    problems: The problems with their rollouts.
    judge: The judge of the rollouts.
    threshold: The score above which a thought is redundant.
    marker_weight: The weight of the words of doubt in the score.
    sentences: The sentences behind the second solution that are kept without loss.
    markers: A regular expression of the words of doubt [U].
    braking: The sentence that ends a thought [U].
    separator: A regular expression of what ends a step [U].
    candidate: A regular expression of what states an answer [U].
  """
  if sentences < 0:
    raise ValueError(f'sentences={sentences}: out of range; fix: a number of at least 0')
  for asked in problems:
    for rollout in asked.right:
      trace = read_trace(rollout.response, separator)
      stated = candidates(trace, candidate)
      first = first_right(judge, asked, trace, stated)
      if Score(judge, trace.steps, first, markers, marker_weight).of_first(len(trace.steps)) <= threshold:
        yield rollout.example([(rollout.response, True)])
        continue
      second = next((i for i in stated if i > first), len(trace.steps) - 1)
      kept, rest = ''.join(trace.steps[: second + 1]), ''.join(trace.steps[second + 1 :])
      yield rollout.example(
        [(kept, True), (_first_sentences(rest, sentences), False), (braking, True), (trace.conclusion, True)]
      )


def _first_sentences(text: str, count: int) -> str:
  """Returns the first sentences of a text, with the space behind them."""
  ends = [0, *(match.end() for match in _SENTENCE_END.finditer(text))]
  return text[: ends[count]] if count < len(ends) else text

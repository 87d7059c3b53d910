"""Self-braking tuning, the dynamic form: a thought ends where its steps become redundant."""

from collections.abc import Iterator, Sequence

from espo_jax.registry import source
from espo_jax.sources.judge import Judge
from espo_jax.sources.redundancy import BRAKING, MARKERS, Score
from espo_jax.sources.registered import register
from espo_jax.sources.rollouts import Asked
from espo_jax.sources.traces import CANDIDATE, SEPARATOR, candidates, first_right, read_trace
from espo_jax.tasks import Example


@register('sbt_d')
@source('SBT-D, arXiv 2505.14604', 'threshold', 'margin', 'marker_weight')
def sbt_d(
  problems: Sequence[Asked],
  judge: Judge,
  *,
  threshold: float = 0.2,
  margin: float = 0.05,
  marker_weight: float = 0.1,
  markers: str = MARKERS,
  braking: str = BRAKING,
  separator: str = SEPARATOR,
  candidate: str = CANDIDATE,
) -> Iterator[Example]:
  """Right rollouts. The score of `sbt_e` is computed anew with each step of the thought.

  | steps | what becomes of them |
  |---|---|
  | those before the score is above `threshold` | They have loss. |
  | from the first with a score above `threshold` on | They are kept without loss. |
  | from the first with a score above `threshold + margin` on | They are cut. |

  The braking sentence and the conclusion follow, both with loss. A thought whose score never is above `threshold` is kept
  whole. Steps and right answers are found as in `sbt_e`.

  Args:
    problems: The problems with their rollouts.
    judge: The judge of the rollouts.
    threshold: `tau1`, the score above which steps have no loss.
    margin: The score above `tau1` at which the thought is cut.
    marker_weight: The weight of the words of doubt in the score.
    markers: A regular expression of the words of doubt [U].
    braking: The sentence that ends a thought [U].
    separator: A regular expression of what ends a step [U].
    candidate: A regular expression of what states an answer [U].
  """
  if margin < 0:
    raise ValueError(f'margin={margin}: out of range; fix: a number of at least 0')
  for asked in problems:
    for rollout in asked.right:
      trace = read_trace(rollout.response, separator)
      first = first_right(judge, asked, trace, candidates(trace, candidate))
      score = Score(judge, trace.steps, first, markers, marker_weight)
      scores = [score.of_first(count) for count in range(1, len(trace.steps) + 1)]
      masked = next((i for i, x in enumerate(scores) if x > threshold), None)
      if masked is None:
        yield rollout.example([(rollout.response, True)])
        continue
      cut = next((i for i, x in enumerate(scores) if x > threshold + margin), len(scores))
      parts = ((trace.steps[:masked], True), (trace.steps[masked:cut], False))
      yield rollout.example([*((''.join(steps), loss) for steps, loss in parts), (braking, True), (trace.conclusion, True)])

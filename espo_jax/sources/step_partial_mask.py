"""STeP: a wrong step is read and not learnt, and the reflection and the right steps behind it are learnt."""

from collections.abc import Iterable, Iterator, Sequence

from espo_jax.registry import source
from espo_jax.sources.registered import register
from espo_jax.sources.rollouts import Asked
from espo_jax.sources.traces import SEPARATOR, expression, split_steps
from espo_jax.tasks import Example


@register('step_partial_mask')
@source('STeP, arXiv 2505.20023; a right rollout in place of its teacher is ours')
def step_partial_mask(
  problems: Sequence[Asked],
  *,
  reflection: str = 'That step is wrong. I correct it.\n\n',
  separator: str = SEPARATOR,
  observation: str = '',
) -> Iterator[Example]:
  """Right rollouts as they are, and wrong ones that are corrected at their first wrong step.

  | part of a corrected rollout | loss |
  |---|---|
  | the steps that a right rollout of the problem shares | 1 |
  | the next step, which counts as wrong | 0 |
  | the reflection, and the right rollout's steps from there on | 1 |
  | observations, wherever they stand | 0 |

  In the paper a strong teacher judges each step and writes the reflection and the correction. Here the teacher is the right
  rollout of the same problem that shares the most first steps. A wrong rollout is left out if its problem has no right one, if
  it is the beginning of one, or if one is its beginning.

  Args:
    problems: The problems with their rollouts.
    reflection: The text between the wrong step and the right one [U].
    separator: A regular expression of what ends a step [U].
    observation: A regular expression of what others wrote into a rollout, such as the results of tools; '' if nothing is [U].
  """
  for asked in problems:
    right = [(rollout, split_steps(rollout.response, separator)) for rollout in asked.right]
    for rollout, _ in right:
      yield rollout.example(without_observations([(rollout.response, True)], observation))
    for rollout in asked.rollouts if right else ():
      if rollout.correct:
        continue
      steps = split_steps(rollout.response, separator)
      shared, good = max(((_shared(steps, its), its) for _, its in right), key=lambda found: found[0])
      is_cut = not rollout.ended and any(its.response.startswith(rollout.response.rstrip()) for its, _ in right)
      if is_cut or shared == min(len(steps), len(good)):
        continue
      parts = ((''.join(steps[:shared]), True), (steps[shared], False), (reflection, True), (''.join(good[shared:]), True))
      yield rollout.example(without_observations(parts, observation))


def without_observations(parts: Iterable[tuple[str, bool]], observation: str) -> Iterator[tuple[str, bool]]:
  """Yields parts of a response in which what matches the expression `observation` has no loss."""
  pattern = expression('observation', observation)
  for text, loss in parts:
    end = 0
    for match in pattern.finditer(text) if observation else ():
      yield text[end : match.start()], loss
      yield match[0], False
      end = match.end()
    yield text[end:], loss


def _shared(a: Sequence[str], b: Sequence[str]) -> int:
  """Returns how many first steps two responses share, without the blanks around them, because the last has none behind it."""
  return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x.strip() != y.strip()), min(len(a), len(b)))

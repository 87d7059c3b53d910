"""Reads the rollouts of an evaluation, problem by problem."""

import pathlib
from collections.abc import Iterable
from typing import Any, NamedTuple

from espo_jax import monitor
from espo_jax.monitor.samples import SAMPLES, SETTINGS
from espo_jax.parallel.storage import read_json
from espo_jax.tasks import Example, Problem, Segment

CONFIG = 'config.json'
_KINDS = {  # of an answer
  'id': int,
  'problem': int,
  'prompt': str,
  'response': str,
  'expected': str,
  'correct': bool,
  'stop_reason': str,
}


class SourceError(ValueError):
  """A source, or rollouts, that cannot be used. The message names the place and the fix."""


class Rollout(NamedTuple):
  """A recorded response.

  Attributes:
    prompt: the text of the prompt, special tokens included.
    response: the text of the response, up to its stop if a rule stopped it.
    correct: whether the response is right, as the evaluation graded it.
    ended: whether the response ended by itself. One that was cut must not teach an end behind its last word.
    place: the file and line of the rollout.
  """

  prompt: str
  response: str
  correct: bool
  ended: bool
  place: str

  def example(self, parts: Iterable[tuple[str, bool] | Segment], weight: float = 1.0) -> Example:
    """Returns an example with this rollout's prompt.

    Args:
      parts: the texts of the response, each with whether it has loss, and a segment where a turn ends. Empty ones are left out,
        and equal neighbours within a turn joined.
      weight: the factor of the loss.
    """
    segments: list[Segment] = []
    for text, loss, ends in (Segment(*part) for part in parts):
      if segments and segments[-1].loss == loss and not segments[-1].ends:
        segments[-1] = Segment(segments[-1].text + text, loss, ends)
      elif text:
        segments.append(Segment(text, loss, ends))
    return Example(self.prompt, tuple(segments), weight, self.place)


class Asked(NamedTuple):
  """A problem with its recorded responses, in the order in which they were sampled."""

  problem: Problem
  rollouts: list[Rollout]

  @property
  def right(self) -> list[Rollout]:
    """The rollouts that are right and ended by themselves."""
    return [rollout for rollout in self.rollouts if rollout.correct and rollout.ended]


def read_rollouts(folder: pathlib.Path) -> list[Asked]:
  """Reads the answers of an evaluation with --record. One without any text is left out, because it has nothing to learn.

  Raises:
    SourceError: The folder holds no such evaluation, or one whose answers have several turns, or a line is no answer.
    OutputError: A line is not JSON.
    DamagedFile: The settings cannot be read.
  """
  named = f'--rollouts={folder}'
  for name in (SETTINGS, SAMPLES, CONFIG):
    if not (folder / name).is_file():
      raise SourceError(f'{named}: holds no {name}; fix: the output folder of a finished espo_jax.evaluate with --record')
  if environment := read_json(folder / SETTINGS).get('environment'):
    raise SourceError(f'{named}: its answers have several turns with the environment {environment!r}; fix: answers of one turn')
  found: dict[int, Asked] = {}
  for number, row in enumerate(monitor.read_samples(folder), start=1):
    _check(folder, number, row)
    if not row['response']:
      continue
    asked = found.setdefault(row['problem'], Asked(Problem(row['id'], row['prompt'], row['expected']), []))
    told = row['prompt'], row['response'], row['correct'], row['stop_reason'] == 'eos'
    asked.rollouts.append(Rollout(*told, f'{SAMPLES}:{number}'))
  if not found:
    raise SourceError(
      f'{named}: {SAMPLES} holds no answer with a text; fix: the command that the evaluation was begun with finishes it'
    )
  return list(found.values())


def _check(folder: pathlib.Path, number: int, row: Any) -> None:
  place = f'{folder / SAMPLES}:{number}'
  for name, kind in _KINDS.items():
    if not isinstance(row, dict) or name not in row:
      raise SourceError(f'{place}: has no {name!r} of an answer; fix: a copy of the file')
    if type(row[name]) is not kind:
      raise SourceError(f'{place}: {name} = {str(row[name])[:80]!r}: not of an answer; fix: a copy of the file')

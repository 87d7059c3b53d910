"""Defines the columns of a comparison's table: what is measured about each run."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np

from espo_jax.monitor import column


@dataclasses.dataclass(frozen=True, eq=False)
class Outcome:
  """The result of one arm with one seed.

  Attributes:
    arm: The arm's name; '' for the start, which all arms of the seed share.
    seed: The run's seed.
    summary: The arm's entry in the run's `summary.json`. For the start it has the results on the test split.
    start: The start's results on the test split.
    metrics: The lines of the arm's `metrics.jsonl`, the critic warm-up's included. The start has none.
    peers: All arms of the same seed by name, this one included.
  """

  arm: str
  seed: int
  summary: Mapping[str, Any]
  start: Mapping[str, Any]
  metrics: list[dict[str, Any]]
  peers: Mapping[str, 'Outcome']


@dataclasses.dataclass(frozen=True)
class Column:
  """A number per run, shown as its mean over seeds with a 95 % interval.

  Attributes:
    label: The column's head, with the unit.
    value: A field of `Outcome.summary`, or a function of the outcome that may return None. The start has no function values.
    scale: The factor by which the number is multiplied.
    digits: The number of digits after the decimal point.
    against: The comparison with the baseline's run of the same seed in a further column: the 'difference', or what is 'saved',
      in per cent of the baseline's number.
  """

  label: str
  value: str | Callable[[Outcome], float | None]
  scale: float = 1.0
  digits: int = 1
  against: Literal['', 'difference', 'saved'] = ''

  def of(self, outcome: Outcome) -> float | None:
    """Returns the scaled number; None if the outcome has none."""
    if isinstance(self.value, str):
      return self._scaled(outcome.summary.get(self.value))
    return self._scaled(self.value(outcome)) if outcome.arm else None

  def _scaled(self, found: float | None) -> float | None:
    return None if found is None else self.scale * found


@dataclasses.dataclass(frozen=True)
class Counts:
  """A share of rare cases, pooled over seeds because a single run has too few of them.

  Attributes:
    label: The column's head.
    value: The function that returns the cases and the trials of an outcome; None if there are no trials.
  """

  label: str
  value: Callable[[Outcome], tuple[float, float] | None]


def _false_positives(outcome: Outcome) -> tuple[float, float] | None:
  found = outcome.summary['false_positives']
  return found and (found['correct'], found['rows'])


def _final_entropy(outcome: Outcome) -> float:
  return float(column(outcome.metrics, 'entropy')[-10:].mean())


def _seconds(outcome: Outcome) -> float | None:
  """Returns the seconds of all updates.

  An update in which a program was compiled counts as the mean of the others. The result is None if there are no others.
  """
  taken = [sum(x for name, x in row.items() if name.startswith('seconds/')) for row in outcome.metrics]
  compiled = [row['process/compiled_programs'] for row in outcome.metrics]
  warm = [x for x, now, before in zip(taken, compiled, [0.0, *compiled[:-1]], strict=True) if now == before]
  return len(taken) * float(np.mean(warm)) if warm else None


def _gflops(outcome: Outcome) -> float:
  return sum(row['rollout/gflops'] for row in outcome.metrics)


def _decoded(outcome: Outcome) -> float:
  return float(outcome.metrics[-1]['rollout/decoded'])


def _curve(outcome: Outcome) -> tuple[np.ndarray, np.ndarray]:
  """Returns the test accuracy over all decoded tokens: at the start, at each `eval.every`-th update, and at the end."""
  marks = [(0.0, outcome.start['accuracy'])]
  marks += [(row['rollout/decoded'], row['eval/accuracy']) for row in outcome.metrics if 'eval/accuracy' in row]
  end = _decoded(outcome)
  if marks[-1][0] < end:
    marks.append((end, outcome.summary['accuracy']))
  tokens, accuracy = np.array(marks, float).T
  return tokens, accuracy


def area_to(tokens: Callable[[Outcome], float | None]) -> Callable[[Outcome], float | None]:
  """Returns the function that gives the mean test accuracy from the start to a number of decoded tokens.

  It is the area under the accuracy over all decoded tokens, by trapezoids, divided by that number. A run that decoded fewer
  tokens has none, because nothing is extrapolated.
  """

  def area(outcome: Outcome) -> float | None:
    end, (x, y) = tokens(outcome), _curve(outcome)
    if end is None or end > x[-1]:
      return None
    within = x < end
    at = np.append(x[within], end)
    return float(np.trapezoid(np.append(y[within], np.interp(end, x, y)), at)) / end

  return area


def accuracy_at(tokens: Callable[[Outcome], float | None]) -> Callable[[Outcome], float | None]:
  """Returns the function that gives the test accuracy at a number of decoded tokens, between the marks on a straight line."""

  def accuracy(outcome: Outcome) -> float | None:
    end, (x, y) = tokens(outcome), _curve(outcome)
    return None if end is None or end > x[-1] else float(np.interp(end, x, y))

  return accuracy


def share_of_tokens(arm: str, share: float) -> Callable[[Outcome], float | None]:
  """Returns the function that gives a share of the tokens that an arm of the same seed decoded; None without that arm."""

  def tokens(outcome: Outcome) -> float | None:
    peer = outcome.peers.get(arm)
    return None if peer is None else share * _decoded(peer)

  return tokens


DECODED = Column('decoded tokens (k)', _decoded, 1e-3, against='saved')  # of training, shadow rows and dropped groups included
SHORT, MIDDLE, LONG = (  # thirds of the test problems by the length of their prompts
  Column(f'{third}, %', f'accuracy_{third}', 100, against='difference') for third in ('short', 'middle', 'long')
)
ACCURACY = Column('accuracy %', 'accuracy', 100, against='difference')  # a sampled answer to each test problem, no stop rule
GREEDY = Column('greedy %', 'greedy_accuracy', 100)
RESPONSE_TOKENS = Column('response tokens', 'test_tokens_mean', against='saved')  # of the sampled answers
TRAINING_TOKENS = Column('training tokens (k)', 'rollout_tokens', 1e-3, against='saved')
TRAINING_GFLOP = Column('training GFLOP', _gflops, against='saved')  # of the tokens that were sampled
SECONDS = Column('seconds', _seconds, against='saved')  # of rollouts, rewards, scoring and updates
FALSE_POSITIVES = Counts('false positives %', _false_positives)  # stopped rows that would have been right, of the shadow rows
FINAL_ENTROPY = Column('entropy, last ten updates (nats)', _final_entropy, digits=3)

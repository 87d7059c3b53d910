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


ACCURACY = Column('accuracy %', 'accuracy', 100, against='difference')  # a sampled answer to each test problem, no stop rule
GREEDY = Column('greedy %', 'greedy_accuracy', 100)
RESPONSE_TOKENS = Column('response tokens', 'test_tokens_mean', against='saved')  # of the sampled answers
TRAINING_TOKENS = Column('training tokens (k)', 'rollout_tokens', 1e-3, against='saved')
TRAINING_GFLOP = Column('training GFLOP', _gflops, against='saved')  # of the tokens that were sampled
SECONDS = Column('seconds', _seconds, against='saved')  # of rollouts, rewards, scoring and updates
FALSE_POSITIVES = Counts('false positives %', _false_positives)  # stopped rows that would have been right, of the shadow rows
FINAL_ENTROPY = Column('entropy, last ten updates (nats)', _final_entropy, digits=3)

"""What a comparison measures of each run: the columns of its table."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np

from espo_jax.monitor import column


@dataclasses.dataclass(frozen=True, eq=False)
class Outcome:
  """What one arm came to under one seed.

  Attributes:
    arm: The arm's name; '' for what all arms of the seed started from.
    seed: The run's seed.
    summary: The arm's entry in the run's `summary.json`; of the start, its results on the test split.
    start: The results on the test split that the arm started from.
    metrics: The lines of its `metrics.jsonl`, the critic warm-up's included; none of the start.
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
  """A number of each run, given as its mean over seeds with a 95 % interval.

  Attributes:
    label: The column's head, with the unit.
    value: A field of `Outcome.summary`, or a function of the outcome; None where there is no such number, as for the start.
    scale: Multiplies the number.
    digits: Behind the point.
    against: Adds a column that pairs each run with the baseline's of its seed: their 'difference', or what is 'saved' of the
      baseline's number, in per cent of it.
  """

  label: str
  value: str | Callable[[Outcome], float | None]
  scale: float = 1.0
  digits: int = 1
  against: Literal['', 'difference', 'saved'] = ''

  def of(self, outcome: Outcome) -> float | None:
    """The scaled number; None where the outcome has none."""
    if isinstance(self.value, str):
      return self._scaled(outcome.summary.get(self.value))
    return self._scaled(self.value(outcome)) if outcome.arm else None

  def _scaled(self, found: float | None) -> float | None:
    return None if found is None else self.scale * found


@dataclasses.dataclass(frozen=True)
class Counts:
  """A share of rare cases, pooled over seeds: a run alone has too few of them for a share of its own.

  Attributes:
    label: The column's head.
    value: Cases and trials of an outcome; None where there are no trials.
  """

  label: str
  value: Callable[[Outcome], tuple[float, float] | None]


def _false_positives(outcome: Outcome) -> tuple[float, float] | None:
  found = outcome.summary['false_positives']
  return found and (found['correct'], found['rows'])


def _final_entropy(outcome: Outcome) -> float:
  return float(column(outcome.metrics, 'entropy')[-10:].mean())


def _seconds(outcome: Outcome) -> float | None:
  """Of all updates; one in which a program was compiled counts as the mean of the others, of which there may be none."""
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

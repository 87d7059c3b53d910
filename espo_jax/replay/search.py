"""Searches the constants and thresholds of every stop rule that has a score and a threshold."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jaxtyping import Array, Float

from espo_jax import registry, stops
from espo_jax.configs.constants import typed_constant
from espo_jax.experiment import make_rule
from espo_jax.replay.difficulty import THIRDS, thirds
from espo_jax.replay.measures import Measured, measure
from espo_jax.replay.recordings import Recordings
from espo_jax.replay.stopping import observations, replay_all
from espo_jax.stops import StopRule

REFERENCE = 'random'  # the rule that others are compared with, which is not proposed for training
_ANOTHER = 'makespan_gate'  # with a beta that is given, it is 'regret_only'
_HEAD_STEPS = 20  # Newton steps, by which a fit to all rows converges
_HALVINGS = 26  # the steps of the bisection that finds a threshold
_CONTROLLER = {
  'beta_0',
  'beta_min',
  'beta_max',
  'eta',
  'target_rate',
  'budget',
  'memory',
  'momentum',
  'least_batches',
  'directions',
}  # constants that a replay does not use, or sets itself


class Candidate(NamedTuple):
  """A rule with its constants except the scale of its threshold, beta."""

  name: str
  constants: dict[str, float]
  rule: StopRule
  bounds: tuple[float, float]  # of beta


class Point(NamedTuple):
  """A rule with all its constants, and its measures.

  `seen` are the problems used to choose the constants, `held_out` are the others, and `thirds` are the hard, the middle and the
  easy third of those.
  """

  name: str
  constants: dict[str, float]
  beta: float
  seen: Measured
  held_out: Measured
  thirds: tuple[Measured, ...]


def rules() -> dict[str, frozenset[str]]:
  """Returns the registered rules whose threshold has a scale, each with the constants that a grid may vary.

  `makespan_gate` is left out, because it differs from `regret_only` only in how it finds its beta.
  """
  scaled = [name for name in stops.REGISTRY if 'beta_max' in stops.arguments(name) and name != _ANOTHER]
  return {name: stops.arguments(name) - _CONTROLLER for name in scaled}


def candidates(
  config: ml_collections.ConfigDict, grid: Mapping[str, Sequence[float]], recordings: Recordings
) -> list[Candidate]:
  """Returns every rule with every combination of the grid's constants that the rule takes.

  A rule is left out if it reads what was not recorded. Projections are onto as many directions as were recorded.

  Args:
    config: The config with the constants that the grid does not name.
    grid: The values to try for each constant.
    recordings: The recordings to replay.
  """
  found = []
  for name, takes in rules().items():
    known = stops.arguments(name)
    varied = [constant for constant in grid if constant in takes]
    defaults = registry.defaults(stops.REGISTRY[name])
    for values in itertools.product(*(grid[constant] for constant in varied)):
      constants: dict[str, Any] = {
        constant: typed_constant(name, constant, value) for constant, value in zip(varied, values, strict=True)
      }
      if 'directions' in known and recordings.projections is not None:
        constants['directions'] = recordings.projections.shape[-1]
      fitted = {'least_batches': 0} if 'least_batches' in known else {}  # the recordings are one batch
      rule = make_rule(config, name, **constants, **fitted)
      if all(getattr(recordings, read, None) is not None for read in rule.reads):
        found.append(Candidate(name, constants, rule, (defaults['beta_min'], defaults['beta_max'])))
  return found


def search(candidate: Candidate, recordings: Recordings, rates: Sequence[float], seed: int = 0) -> list[Point]:
  """Measures a candidate at the thresholds that stop given shares of the rows.

  If several thresholds stop equally many rows, only one of them is kept.

  Args:
    candidate: The rule.
    recordings: The rows. The even problems determine and choose the thresholds. The odd problems are held out.
    rates: The shares of rows to stop.
    seed: The seed of the rule's own random draws.
  """
  noise = jnp.asarray(np.random.default_rng(seed).random(recordings.regret.shape, np.float32))
  on_device = jax.tree.map(jnp.asarray, recordings)
  even = recordings.problem % 2 == 0
  halves = [recordings.weight * half for half in (even, ~even)]
  parts = [*halves, *(halves[1] * third for third in thirds(recordings.correct, recordings.problem, halves[1]))]

  rule = informed(candidate.rule, on_device, jnp.asarray(halves[0]), noise)

  def ends(betas: Float[np.ndarray, 'K']) -> tuple[np.ndarray, np.ndarray]:
    length, stopped = jax.device_get(replay_all(rule, jnp.asarray(betas, jnp.float32), on_device, noise))
    return length.reshape(len(betas), -1), stopped.reshape(len(betas), -1)

  def share(betas: Float[np.ndarray, 'K']) -> Float[np.ndarray, 'K']:
    return np.average(ends(betas)[1], axis=1, weights=halves[0].reshape(-1))

  def edge(stops_enough: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Returns per rate the beta at which the stopped share no longer satisfies a condition. The share falls with beta."""
    low, high = (np.full(len(rates), bound) for bound in candidate.bounds)
    for _ in range(_HALVINGS):
      middle = (low + high) / 2
      enough = stops_enough(share(middle))
      low, high = np.where(enough, middle, low), np.where(enough, high, middle)
    return high

  lowest = edge(lambda found: found > rates)
  reached = share(lowest)
  # Up to the next edge the same rows are stopped, so the threshold is set halfway between the two edges.
  betas = np.unique(((lowest + edge(lambda found: found >= reached)) / 2).astype(np.float32))
  length, stopped = ends(betas)
  facts = recordings.full_length.reshape(-1), recordings.correct.reshape(-1)
  measured = [measure(length, stopped, *facts, part.reshape(-1)) for part in parts]
  points = [
    Point(candidate.name, candidate.constants, float(beta), seen, held_out, tuple(by_third))
    for beta, seen, held_out, *by_third in zip(betas, *measured, strict=True)
  ]
  distinct = {point.seen.stop_rate: point for point in points if point.seen.stop_rate > 0}
  return list(distinct.values())


def informed(rule: StopRule, recordings: Recordings, weight: Float[Array, 'F N'], noise: Float[Array, 'F N T']) -> StopRule:
  """Returns the rule with the head or the hazard fitted to the recordings, if it has one at all.

  Args:
    rule: The rule.
    recordings: The recordings of all problems.
    weight: The weight of each row; 0 for those that the head may not see.
    noise: The rule's own uniform draws, which no head reads.
  """
  own = rule.init(1).adaptive
  if own.head is None and own.hazard is None:
    return rule
  seen = observations(rule, recordings, noise)._replace(logprobs=jnp.asarray(recordings.logprobs))  # which a head reads
  flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), seen)
  hindsight = stops.Hindsight(
    z=jnp.zeros_like(flat.regret),
    full_length=jnp.asarray(recordings.full_length).reshape(-1),
    correct=jnp.asarray(recordings.correct).reshape(-1),
    weight=weight.reshape(-1),
    seen=flat,
    begins=jnp.zeros(weight.size, jnp.int32),
  )
  if own.hazard is not None:
    hazard = stops.fit_hazard(stops.new_hazard(), hindsight, memory=0.0, steps=_HEAD_STEPS)
    return stops.with_hazard(rule, hazard, memory=0.0)
  head = stops.fit_head(stops.new_head(), hindsight, memory=0.0, steps=_HEAD_STEPS)
  return stops.with_head(rule, head=head)


def chosen(points: Sequence[Point], most_lost: float) -> dict[str, Point]:
  """Returns per rule the point with the fewest expected tokens per solved problem.

  A rule whose points all stop too many right rows is left out. Without this bound, the best point of a rule would give up on
  every problem that takes long.

  Args:
    points: The points of all rules.
    most_lost: The largest share of right rows that may be stopped.
  """
  best: dict[str, Point] = {}
  for point in points:
    least = best[point.name].seen.tokens_per_solved if point.name in best else float('inf')
    if point.seen.false_positives <= most_lost and point.seen.tokens_per_solved < least:
      best[point.name] = point
  return best


def as_record(point: Point) -> dict[str, Any]:
  """Converts a point for JSON."""
  measured = {'seen': point.seen._asdict(), 'held_out': point.held_out._asdict()}
  measured |= {third: its._asdict() for third, its in zip(THIRDS, point.thirds, strict=True)}
  return {'rule': point.name, 'constants': point.constants, 'beta': point.beta} | measured

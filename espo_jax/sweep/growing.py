"""Adds the arms of a search to a sweep, each once the runs of those before it have ended."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from espo_jax.configs import ConfigError, validate
from espo_jax.sweep.making import make
from espo_jax.sweep.plan import Run, configured
from espo_jax.sweep.running import FAILED, Status
from espo_jax.sweep.searches import REGISTRY, Proposer, Tried
from espo_jax.sweep.spec import Sweep
from espo_jax.sweep.watching import read_trial

TAIL = 5  # updates at the end over which the accuracy of a run is averaged


def make_search(sweep: Sweep) -> Proposer:
  """Makes the search of a sweep that has one.

  Raises:
    ConfigError: The search does not exist or does not take its options, or a value of its space cannot be set.
  """
  assert sweep.search is not None
  proposer = make(REGISTRY, sweep.search.by, sweep.search.options, 'search.options')
  if problems := list(_space_problems(sweep)):
    raise ConfigError(problems)
  return proposer


def grown(sweep: Sweep, proposer: Proposer, runs: Sequence[Run]) -> Sweep | None:
  """Returns the sweep with the next arm of its search; None if all have been proposed.

  Args:
    sweep: The sweep, with the arms so far.
    proposer: The search.
    runs: The runs of these arms, which have all ended.
  """
  search, before = sweep.search, searched(sweep)
  assert search is not None
  if len(before) == search.arms:
    return None
  proposed = proposer(search.space, [tried(sweep, arm, runs) for arm in before], search.seed)
  return dataclasses.replace(sweep, arms={**sweep.arms, arm_name(sweep, len(before)): proposed})


def searched(sweep: Sweep) -> list[str]:
  """Returns the arms that have been proposed so far."""
  most = 0 if sweep.search is None else sweep.search.arms
  return [name for name in (arm_name(sweep, i) for i in range(most)) if name in sweep.arms]


def arm_name(sweep: Sweep, index: int) -> str:
  """Returns the name of an arm of the search; the first has index 0."""
  assert sweep.search is not None
  return f'{sweep.search.by}_{index + 1:0{len(str(sweep.search.arms))}d}'


def tried(sweep: Sweep, arm: str, runs: Sequence[Run]) -> Tried:
  """Reads what an arm of the search came to. An arm of which a run failed has no value."""
  assert sweep.search is not None
  states = {run: Status.of(run).state for run in runs if arm in run.arms}
  settings = {field: sweep.arms[arm][field] for field in sweep.search.space}
  nothing = Tried(settings, None, 0, whole=False)
  if FAILED in states.values():  # perhaps before its first update
    return nothing
  trials = [read_trial(run, whole=state == 'done') for run, state in states.items()]
  if not all(trial.accuracy.size for trial in trials):
    return nothing
  value = float(np.mean([trial.final(TAIL) for trial in trials]))
  return Tried(settings, value, min(int(trial.updates[-1]) for trial in trials), all(trial.whole for trial in trials))


def told(sweep: Sweep, runs: Sequence[Run]) -> str:
  """Returns a table of the arms of the search, the best first."""
  arms = {arm: tried(sweep, arm, runs) for arm in searched(sweep)}
  best_first = sorted(arms, key=lambda arm: _height(arms[arm]), reverse=True)
  fields = list(next(iter(arms.values())).settings)
  lines = [
    f'| arm | {" | ".join(f"`{field}`" for field in fields)} | training accuracy at the end |',
    '|---' * (len(fields) + 2) + '|',
  ]
  for arm in best_first:
    its = arms[arm]
    cells = [_written(its.settings[field]) for field in fields]
    value = 'failed' if its.value is None else f'{its.value:.3f}' + ('' if its.whole else f', ended at update {its.updates}')
    lines.append(f'| {arm} | {" | ".join(cells)} | {value} |')
  return '\n'.join(lines)


def _height(its: Tried) -> float:
  return -np.inf if its.value is None else its.value


def _written(value: Any) -> str:
  return f'{value:.3g}' if isinstance(value, float) else str(value)


def _space_problems(sweep: Sweep) -> Iterator[str]:
  """Checks each end of the space beside the fields that all arms have."""
  assert sweep.search is not None
  for field, values in sweep.search.space.items():
    for value in values.ends:
      try:
        validate(configured(sweep.base, {**sweep.common, field: value}))
      except ConfigError as error:
        yield from (f'search.space[{field!r}] with {value!r}: {problem}' for problem in error.problems)

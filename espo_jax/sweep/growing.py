"""Adds the arms of a search to a sweep, each once the runs of those before it have ended."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from espo_jax.configs import ConfigError
from espo_jax.sweep.making import make
from espo_jax.sweep.plan import Run, check_arms
from espo_jax.sweep.running import FAILED, Status
from espo_jax.sweep.searches import REGISTRY, Tried
from espo_jax.sweep.searches.space import Search
from espo_jax.sweep.spec import Sweep
from espo_jax.sweep.watching import read_trial

TAIL = 5  # updates at the end over which the accuracy of a run is averaged


class Growing:
  """A sweep whose search proposes one arm after another.

  Attributes:
    sweep: The sweep with the arms so far.
  """

  def __init__(self, sweep: Sweep):
    """Makes the search of a sweep, which has one.

    Raises:
      ConfigError: The search does not exist or does not take its options, or a value of its space cannot be set.
    """
    search = sweep.search
    assert search is not None
    self.sweep, self._search = sweep, search
    self._propose = make(REGISTRY, search.by, search.options, 'search.options')
    _check_space(sweep, search)
    self._proposed: dict[str, Mapping[str, Any]] = {}
    self._refused: dict[str, str] = {}  # arms that cannot run, and why

  def grow(self, runs: Sequence[Run]) -> bool:
    """Adds the next arm that can run; returns False once all arms have been proposed.

    Args:
      runs: The runs of the sweep's arms so far, which have all ended.
    """
    while len(self._proposed) < self._search.arms:
      tried = [self._tried(arm, runs) for arm in self._proposed]
      name = f'{self._search.by}_{len(tried) + 1}'
      self._proposed[name] = proposed = self._propose(self._search.space, tried, self._search.seed)
      more = dataclasses.replace(self.sweep, arms={**self.sweep.arms, name: proposed})
      try:
        check_arms(more, [name])
      except ConfigError as error:
        self._refused[name] = error.problems[0]
        continue
      self.sweep = more
      return True
    return False

  def record(self, runs: Sequence[Run]) -> dict[str, Any]:
    """Returns the search's fields, and under 'tried' what each arm that it proposed came to, by the name of the arm.

    An entry of 'tried' has the fields of `Tried`. Under 'refused' it says why the arm cannot run; '' if it can.
    """
    tried = {arm: self._tried(arm, runs)._asdict() | {'refused': self._refused.get(arm, '')} for arm in self._proposed}
    return dataclasses.asdict(self._search) | {'tried': tried}

  def _tried(self, arm: str, runs: Sequence[Run]) -> Tried:
    """Reads what an arm came to. An arm that cannot run, or of which a run failed, has no value."""
    nothing = Tried(self._proposed[arm], None, 0, whole=False)
    states = {run: Status.of(run).state for run in runs if arm in run.arms}
    if arm in self._refused or FAILED in states.values():  # perhaps before its first update
      return nothing
    trials = [read_trial(run, whole=state == 'done') for run, state in states.items()]
    if not all(trial.accuracy.size for trial in trials):
      return nothing
    value, updates = float(np.mean([trial.final(TAIL) for trial in trials])), min(int(trial.updates[-1]) for trial in trials)
    return Tried(self._proposed[arm], value, updates, all(trial.whole for trial in trials))


def _check_space(sweep: Sweep, search: Search) -> None:
  """Checks an arm with each end of the space, beside the fields that all arms have."""
  ends = [(field, value) for field, values in search.space.items() for value in values.ends]
  probes = {f'search.space[{field!r}] with {value!r}': {field: value} for field, value in ends}
  check_arms(dataclasses.replace(sweep, arms=probes), list(probes))

"""Makes searches of Optuna's samplers."""

from collections.abc import Callable, Sequence
from typing import Any

from espo_jax.sweep.making import import_optuna
from espo_jax.sweep.searches.space import Between, OneOf, Proposer, Setting, Space, Tried


def sampled_by(name: str, make: Callable[[Any, Space, int], Any]) -> Proposer:
  """Returns the search that asks a sampler of Optuna.

  The study is rebuilt from the arms that were tried, and the sampler is seeded with the number of these. Hence an interrupted
  search proposes what it would have proposed.

  Args:
    name: The search's name.
    make: The function that makes the sampler from the module `optuna.samplers`, the space and a seed.
  """
  optuna = import_optuna(f'search.by = {name!r}')
  state = optuna.trial.TrialState

  def propose(space: Space, tried: Sequence[Tried], seed: int) -> dict[str, Setting]:
    among = {field: _distribution(optuna.distributions, values) for field, values in space.items()}
    sampler = make(optuna.samplers, space, (100_003 * seed + len(tried)) % 2**32)
    study = optuna.create_study(direction='maximize', sampler=sampler)
    for arm in tried:
      if arm.value is None:
        found = {'state': state.FAIL}
      elif arm.whole:
        found = {'state': state.COMPLETE, 'value': arm.value}
      else:
        found = {'state': state.PRUNED, 'intermediate_values': {arm.updates: arm.value}}
      study.add_trial(optuna.trial.create_trial(params=dict(arm.settings), distributions=among, **found))
    return dict(study.ask(among).params)

  return propose


def _distribution(distributions: Any, values: Between | OneOf) -> Any:
  if isinstance(values, OneOf):
    return distributions.CategoricalDistribution(values.values)
  kind = distributions.IntDistribution if values.whole else distributions.FloatDistribution
  return kind(values.low, values.high, log=values.log)

"""Proposes arms that resemble the good ones: tree-structured Parzen estimators."""

from espo_jax.registry import source
from espo_jax.sweep.searches.optuna_samplers import sampled_by
from espo_jax.sweep.searches.registered import register
from espo_jax.sweep.searches.space import Proposer


@register('tpe')
@source("TPE, Bergstra et al., NIPS 2011, by Optuna's TPESampler with its defaults", 'first', 'candidates')
def tpe(*, first: int = 10, candidates: int = 24) -> Proposer:
  """Proposes, field by field, the value at which the density of the good arms is highest against that of all others.

  Args:
    first: The arms that are drawn at random before the first density is estimated.
    candidates: The values that are drawn from the density of the good arms, of which the best is proposed.
  """
  if first < 1 or candidates < 1:
    raise ValueError(f'first = {first}, candidates = {candidates}: out of range; fix: numbers of at least 1')
  return sampled_by(
    'tpe',
    lambda samplers, _, seed: samplers.TPESampler(n_startup_trials=first, n_ei_candidates=candidates, seed=seed),
  )

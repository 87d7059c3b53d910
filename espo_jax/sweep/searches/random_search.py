"""Draws each arm from the whole space, whatever the others came to."""

from espo_jax.registry import source
from espo_jax.sweep.searches.optuna_samplers import sampled_by
from espo_jax.sweep.searches.registered import register
from espo_jax.sweep.searches.space import Proposer


@register('random')
@source("Bergstra and Bengio, JMLR 13 (2012), by Optuna's RandomSampler")
def random_search() -> Proposer:
  """Draws each field of each arm by itself: the control that a search has to be ahead of."""
  return sampled_by('random', lambda samplers, _, seed: samplers.RandomSampler(seed=seed))

"""BOHB's proposals: a joint density of good arms, and some arms at random."""

import random
from typing import Any

from espo_jax.registry import source
from espo_jax.sweep.searches.optuna_samplers import sampled_by
from espo_jax.sweep.searches.registered import register
from espo_jax.sweep.searches.space import Proposer, Space


@register('bohb')
@source('BOHB, arXiv 1807.01774', 'candidates', 'share_random')
def bohb(*, candidates: int = 64, share_random: float = 1 / 3) -> Proposer:
  """Proposes what is likely among the good arms and unlikely among the others, by one density over all fields.

  With `early_end = 'hyperband'` a sweep has BOHB's recipe: arms that were ended early count behind all whole ones, in the order
  of the updates that they reached. The first arms, one more than there are fields, are drawn at random. The densities are those
  of Optuna's multivariate TPE [I]: its bandwidths are not BOHB's, and a tenth of the arms counts as good where BOHB takes 15 %.

  Args:
    candidates: The arms that are drawn from the density of the good ones, of which the best is proposed.
    share_random: The share of the arms that are drawn at random.
  """
  if candidates < 1 or not 0 <= share_random <= 1:
    raise ValueError(
      f'candidates = {candidates}, share_random = {share_random}: out of range; fix: a number of at least 1, a share in [0, 1]'
    )

  def make(samplers: Any, space: Space, seed: int) -> Any:
    if random.Random(seed).random() < share_random:
      return samplers.RandomSampler(seed=seed)
    return samplers.TPESampler(
      multivariate=True,
      n_startup_trials=len(space) + 1,
      n_ei_candidates=candidates,
      seed=seed,
    )

  return sampled_by('bohb', make)

"""Advantages and loss terms. They are functions of arrays and do not depend on models and rollouts.

Each file registers the objectives of one paper. `registered.ARRAYS` lists what an objective may read, `advantages.OF_CRITIC`
and `advantages.OF_GROUP` what an advantage may read. `supervised` has what the warm start may choose.
"""

from espo_jax.objectives import advantages
from espo_jax.objectives.advantages import (
  ADVANTAGES,
  Advantage,
  get_advantage,
  group_scores,
  group_zscore,
  loo,
  mean_only,
  on_tokens,
)
from espo_jax.objectives.compose import (
  compose,
  default_advantage,
  default_draws,
  get,
  parts,
  ranks,
  reads,
  reads_reference,
  settings,
)
from espo_jax.objectives.gae import gae
from espo_jax.objectives.grpo import grpo
from espo_jax.objectives.importance import LEVELS, importance_weights
from espo_jax.objectives.kl import Estimate, estimated_kl, k1, k2, k3
from espo_jax.objectives.masked import explained_variance, masked_mean, masked_sum, masked_variance, whiten
from espo_jax.objectives.orthograd import orthograd
from espo_jax.objectives.ppo import ppo
from espo_jax.objectives.registered import ARRAYS, REGISTRY, Objective, register
from espo_jax.objectives.selection import most_varied
from espo_jax.objectives.stablemax_ce import stablemax_ce
from espo_jax.objectives.supervised import GRADIENTS, LIKELIHOODS, register_gradient, register_likelihood, softmax_ce
from espo_jax.objectives.terms import Term, Terms, clipped_policy, clipped_value, sequence_mean, token_mean
from espo_jax.registry import import_files

import_files(__name__, __path__)

__all__ = [
  'ADVANTAGES',
  'ARRAYS',
  'GRADIENTS',
  'LEVELS',
  'LIKELIHOODS',
  'REGISTRY',
  'Advantage',
  'Estimate',
  'Objective',
  'Term',
  'Terms',
  'advantages',
  'clipped_policy',
  'clipped_value',
  'compose',
  'default_advantage',
  'default_draws',
  'estimated_kl',
  'explained_variance',
  'gae',
  'get',
  'get_advantage',
  'group_scores',
  'group_zscore',
  'grpo',
  'importance_weights',
  'k1',
  'k2',
  'k3',
  'loo',
  'masked_mean',
  'masked_sum',
  'masked_variance',
  'mean_only',
  'most_varied',
  'on_tokens',
  'orthograd',
  'parts',
  'ppo',
  'ranks',
  'reads',
  'reads_reference',
  'register',
  'register_gradient',
  'register_likelihood',
  'sequence_mean',
  'settings',
  'softmax_ce',
  'stablemax_ce',
  'token_mean',
  'whiten',
]

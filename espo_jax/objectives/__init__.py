"""Advantages and loss terms. They see arrays; they know nothing of models and rollouts."""

from espo_jax.objectives.advantages import (
  ADVANTAGES,
  Advantage,
  Credit,
  get_advantage,
  group_scores,
  group_zscore,
  loo,
  mean_only,
  on_tokens,
)
from espo_jax.objectives.compose import (
  REGISTRY,
  Objective,
  compose,
  default_advantage,
  default_draws,
  get,
  parts,
  ranks,
  reads,
  settings,
)
from espo_jax.objectives.gae import gae
from espo_jax.objectives.grpo import grpo
from espo_jax.objectives.inputs import LossInputs
from espo_jax.objectives.kl import Estimate, estimated_kl, k1, k2, k3
from espo_jax.objectives.masked import explained_variance, masked_mean, masked_sum, masked_variance, whiten
from espo_jax.objectives.ppo import ppo
from espo_jax.objectives.terms import Term, Terms, clipped_policy, clipped_value, sequence_mean, token_mean

__all__ = [
  'ADVANTAGES',
  'REGISTRY',
  'Advantage',
  'Credit',
  'Estimate',
  'LossInputs',
  'Objective',
  'Term',
  'Terms',
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
  'k1',
  'k2',
  'k3',
  'loo',
  'masked_mean',
  'masked_sum',
  'masked_variance',
  'mean_only',
  'on_tokens',
  'parts',
  'ppo',
  'ranks',
  'reads',
  'sequence_mean',
  'settings',
  'token_mean',
  'whiten',
]

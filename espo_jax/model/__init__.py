"""One functional decoder for all families, its cache and its critic. Knows nothing of reinforcement learning."""

from espo_jax.model.actor_critic import ActorCritic, Caches, States, repeat_samples
from espo_jax.model.cache import Cache, init_cache, repeat_rows
from espo_jax.model.config import ModelConfig
from espo_jax.model.decoder import Decoder, Params, apply, init

__all__ = [
  'ActorCritic',
  'Cache',
  'Caches',
  'Decoder',
  'ModelConfig',
  'Params',
  'States',
  'apply',
  'init',
  'init_cache',
  'repeat_rows',
  'repeat_samples',
]

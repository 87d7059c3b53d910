"""Describes experiments as data: every field with its default, and the checks that run before a device is touched."""

from espo_jax.configs.advice import advice
from espo_jax.configs.allocation import is_ragged
from espo_jax.configs.data import task_arguments
from espo_jax.configs.day import with_day
from espo_jax.configs.defaults import AUTO, STAGES, default_config
from espo_jax.configs.devices import check_attention, check_devices
from espo_jax.configs.dtype import best_dtype, with_dtype
from espo_jax.configs.fields import ConfigError, flatten
from espo_jax.configs.methods import advantage_name, max_draws, method_options, trains_critic, uses_reference, warmup_updates
from espo_jax.configs.model import check_tokens, logit_chunk, model_config, model_overrides
from espo_jax.configs.reading import load_config, parse_flags, run_of
from espo_jax.configs.start import model_differences
from espo_jax.configs.validate import validate

__all__ = [
  'AUTO',
  'STAGES',
  'ConfigError',
  'advantage_name',
  'advice',
  'best_dtype',
  'check_attention',
  'check_devices',
  'check_tokens',
  'default_config',
  'flatten',
  'is_ragged',
  'load_config',
  'logit_chunk',
  'max_draws',
  'method_options',
  'model_config',
  'model_differences',
  'model_overrides',
  'parse_flags',
  'run_of',
  'task_arguments',
  'trains_critic',
  'uses_reference',
  'validate',
  'warmup_updates',
  'with_day',
  'with_dtype',
]

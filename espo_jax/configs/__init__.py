"""Experiments as data: every field with its default, and the checks that run before a device is touched."""

from espo_jax.configs.command import parse_flags
from espo_jax.configs.defaults import default_config
from espo_jax.configs.fields import ConfigError, flatten
from espo_jax.configs.saved import load_config
from espo_jax.configs.validate import validate

__all__ = ['ConfigError', 'default_config', 'flatten', 'load_config', 'parse_flags', 'validate']

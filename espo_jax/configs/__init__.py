"""Experiments as data: every field with its default, and the checks that run before a device is touched."""

from espo_jax.configs.defaults import default_config
from espo_jax.configs.validate import ConfigError, validate

__all__ = ['ConfigError', 'default_config', 'validate']

"""Checks that run before any device is touched. Each error names the field, its value and the fix."""


class ConfigError(ValueError):
  """A config that cannot run."""


def validate(config):
  """TODO."""

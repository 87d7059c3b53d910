"""Defines the flag `--plugins=FILE` for commands with absl's flags. Such a file of the user's own registers methods."""

import sys

from absl import flags

from espo_jax.commands.parser import PLUGINS_HELP
from espo_jax.registry import PluginError, load_plugin

_PLUGINS = flags.DEFINE_multi_string('plugins', [], PLUGINS_HELP)


def load_plugins() -> None:
  """Load the files that the flags name. A file that cannot be loaded ends the command with a one-line error."""
  for file in _PLUGINS.value:
    try:
      load_plugin(file)
    except PluginError as error:
      sys.exit(f'error: {error}')

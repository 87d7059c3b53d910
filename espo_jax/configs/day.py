"""Sets `data.today`, the date that chat templates write. A run that is resumed keeps the date of its first start.

The day is part of the config because a template that writes today's date would make other prompts of the same problems
tomorrow. A run's `config.json` keeps its day.
"""

import pathlib

import ml_collections

from espo_jax.configs.data import writes_chats
from espo_jax.configs.reading import kept_field, run_of


def with_day(config: ml_collections.ConfigDict, workdir: pathlib.Path, today: str = '') -> ml_collections.ConfigDict:
  """Returns the config with `data.today` filled in.

  The date comes from the run in `workdir` if there is one, else from the run that `start_from` names, else from the argument
  `today`. A config that already names a date is returned unchanged. So is a config whose task has no chat template.
  """
  if config.data.today or not writes_chats(config):
    return config
  kept = kept_field(workdir, 'data.today')
  if kept is None and config.start_from:
    kept = kept_field(run_of(pathlib.Path(config.start_from))[0], 'data.today')
  config = config.copy_and_resolve_references()
  config.data.today = kept or today
  return config.lock()

"""`data.today`, the day that chat templates write: that of a run's first start, whenever the run goes on.

The day is part of the config because a template that writes today's date would make other prompts of the same problems
tomorrow. A run's `config.json` keeps its day.
"""

import pathlib

import ml_collections

from espo_jax.configs.data import reads_data
from espo_jax.configs.fields import ConfigError
from espo_jax.configs.reading import load_config


def with_day(config: ml_collections.ConfigDict, workdir: pathlib.Path, today: str = '') -> ml_collections.ConfigDict:
  """A config whose `data.today` is set: that of the run in `workdir`, else of the run that it starts from, else `today`.

  A config that names a day itself keeps it, and so does one whose task has no chat template.
  """
  if config.data.today or not reads_data(config):
    return config
  kept = _kept(workdir)
  if kept is None and config.start_from:
    kept = _kept(pathlib.Path(config.start_from))
  config = config.copy_and_resolve_references()
  config.data.today = kept or today
  return config.lock()


def _kept(run: pathlib.Path) -> str | None:
  path = run / 'config.json'
  try:
    return str(load_config(path).data.today) if path.is_file() else None
  except (ConfigError, ValueError):  # said by the checks that read it for more
    return None

"""Configs read back from the `config.json` of a run."""

import json
import pathlib
from typing import Any

import ml_collections

from espo_jax.configs.defaults import default_config
from espo_jax.configs.fields import ConfigError, flatten, get_field, is_known, near_field


def load_config(path: str | pathlib.Path) -> ml_collections.ConfigDict:
  """The config that `monitor.write_run_info` wrote, equal to the one of the run.

  JSON has no tuples and no infinities: lists become tuples, and null the default where that is infinite, which is the only
  infinite value that `validate` lets through.

  Raises:
    ConfigError: The file is no JSON object, or holds a field that this version does not know.
  """
  config = default_config()
  expected = flatten(config)
  saved = flatten(_read(pathlib.Path(path)))
  if unknown := [field for field in saved if not is_known(field, expected)]:
    raise ConfigError([f'{field} in {path}: no such field in this version; {near_field(field, expected)}' for field in unknown])
  for field, value in saved.items():
    section, _, name = field.rpartition('.')
    holder = get_field(config, section) if section else config
    holder[name] = _restored(value, expected.get(field))
  return config.lock()


def _read(path: pathlib.Path) -> dict[str, Any]:
  fix = 'fix: the config.json that espo_jax.train wrote'
  try:
    found = json.loads(path.read_text())
  except ValueError as error:
    raise ConfigError([f'{path}: not JSON ({error}); {fix}']) from error
  if not isinstance(found, dict):
    raise ConfigError([f'{path}: not an object but {type(found).__name__}; {fix}'])
  return found


def _restored(value: Any, default: Any) -> Any:
  if value is None and isinstance(default, float):
    return default
  return tuple(_restored(item, None) for item in value) if isinstance(value, list) else value

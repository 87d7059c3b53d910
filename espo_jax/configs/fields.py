"""Fields of a config by their dotted names."""

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

import ml_collections

OPEN_SECTIONS = (
  'task.options',
  'reward',
  'advantage',
  'objective',
  'exits',
)  # may hold more than the defaults do: arguments of what they configure


class ConfigError(ValueError):
  """A config that cannot run; one line a problem, each with the field, its value and the fix."""

  def __init__(self, problems: Iterable[str]):
    self.problems = tuple(problems)
    super().__init__('the config cannot run\n' + '\n'.join(f'  {problem}' for problem in self.problems))


def flatten(config: Mapping[str, Any] | ml_collections.ConfigDict, prefix: str = '') -> dict[str, Any]:
  """The fields of a nested config, `{'stop.eta': 0.1, ...}`."""
  flat: dict[str, Any] = {}
  for name, value in config.items():
    if isinstance(value, Mapping | ml_collections.ConfigDict):
      flat |= flatten(value, f'{prefix}{name}.')
    else:
      flat[f'{prefix}{name}'] = value
  return flat


def get_field(config: ml_collections.ConfigDict, field: str) -> Any:
  """The value at a dotted name."""
  for name in field.split('.'):
    config = config[name]
  return config


def is_known(field: str, known: Iterable[str]) -> bool:
  """Whether `field` is one of the known ones or belongs to an open section."""
  return field in known or field.startswith(tuple(f'{section}.' for section in OPEN_SECTIONS))


def near_field(field: str, known: Iterable[str]) -> str:
  """The fix for an unknown field: the known one that it may have meant, or those of its section."""
  known = sorted(known)
  section, _, name = field.rpartition('.')
  beside = {other.rpartition('.')[2]: other for other in known if other.rpartition('.')[0] == section}
  near = [beside[other] for other in difflib.get_close_matches(name, beside, n=1)]
  near = near or [other for other in known if other.rpartition('.')[2] == name]
  near = near or ([] if beside else difflib.get_close_matches(field, known, n=1))
  return f'did you mean {near[0]}?' if near else f'known: {", ".join(beside.values() or known)}'

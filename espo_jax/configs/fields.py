"""Finds the fields of a config by their dotted names."""

from collections.abc import Iterable, Mapping
from typing import Any

import ml_collections

from espo_jax import stops
from espo_jax.configs.defaults import SCHEMA
from espo_jax.configs.schema import sections
from espo_jax.names import nearest

OPEN_SECTIONS = tuple(name for name, section in sections(SCHEMA) if section.is_open)


_LONGEST = 1_000  # characters at either end of a message
_MOST = 15  # problems that a message has


class ConfigError(ValueError):
  """A config that cannot run. The message has one line per problem, with the field, its value and the fix."""

  def __init__(self, problems: Iterable[str]):
    self.problems = tuple(_shortened(problem) for problem in problems)
    rest = len(self.problems) - _MOST
    shown = [*self.problems[:_MOST], *([f'and {rest} more'] if rest > 0 else [])]
    super().__init__('the config cannot run\n' + '\n'.join(f'  {problem}' for problem in shown))


def _shortened(problem: str) -> str:
  """Returns a problem without the middle of a value that may be as long as a file. The field and the fix are at its ends."""
  return problem if len(problem) <= 2 * _LONGEST else f'{problem[:_LONGEST]} ... {problem[-_LONGEST:]}'


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
  """Whether `field` is a known field, belongs to an open section, or is an option of a user's stop rule."""
  return field in known or field.startswith(tuple(f'{section}.' for section in OPEN_SECTIONS)) or _is_users(field)


def _is_users(field: str) -> bool:
  section, _, option = field.rpartition('.')
  rule = section.removeprefix('stop.')
  return rule in stops.REGISTRY and section != rule and stops.is_users(rule) and option in stops.arguments(rule)


def near_field(field: str, known: Iterable[str]) -> str:
  """Returns the fix for an unknown field: the known field that was probably meant, else the known fields of its section."""
  known = sorted(known)
  section, _, name = field.rpartition('.')
  sections = {other.rpartition('.')[0] for other in known}
  by_name: dict[str, list[str]] = {}
  for other in known:
    by_name.setdefault(other.rpartition('.')[2], []).append(other)

  def beside(section: str) -> dict[str, str]:
    return {other.rpartition('.')[2]: other for other in known if other.rpartition('.')[0] == section}

  near = [other for other in known if field.startswith(f'{other}.')]  # `field` reaches into the value of a known field
  if section not in sections and nearest(section, sections, likeness=0.8) is None:
    near += {f'{section.rpartition(".")[0]}.{name}'} & set(known)  # the section around the unknown one may have the field
  if not near and (meant := section if section in sections else nearest(section, sections)) is not None:
    near = [beside(meant)[other] for other in [nearest(name, beside(meant))] if other]
  if not near and (meant := nearest(name, by_name, likeness=0.8)):
    near = by_name[meant]
  if near:
    return f'did you mean {" or ".join(near)}?'
  return f'known: {", ".join(beside(section).values() or sorted({other.partition(".")[0] for other in known}))}'

"""Knows the data sets of the package reasoning-gym by name, and makes their configs from the options of a run."""

import dataclasses
import datetime
import enum
from collections.abc import Mapping
from typing import Any

from espo_jax.names import nearest
from espo_jax.registry import unknown
from espo_jax.tasks.task import DataError

CHUNK = 4096  # the entries that one seed gives, a limited number because some data sets make all their entries at once
OWN = ('dataset', 'prompt', 'instruction', 'grade_workers', 'grade_deadline')  # all other options are the data set's
_FIELD = 'task.options'
_TRIED = 8  # the entries of the data set that is made only to try its options
_OURS = ('seed', 'size')  # fields of each config that the task sets


def dataset_config(dataset: str, options: Mapping[str, Any]) -> Any:
  """Makes the config of a data set.

  A tuple stands for a list, the value of an enumeration for its member, and ISO text for a date or a time. The data set
  'composite' mixes others: `datasets = ({'name': 'chain_sum', 'weight': 2.0, 'config': {'max_terms': 3}}, {'name': 'gcd'})`.

  Args:
    dataset: the name of a data set of the package.
    options: the fields of its config that replace their defaults.

  Returns:
    An object of the data set's own config class, with `CHUNK` as its size.

  Raises:
    DataError: The package is not installed, there is no such data set or option, or the data set refuses a value.
  """
  kind, config_kind = _found(dataset, f'{_FIELD}.dataset')
  values = _values(dataset, config_kind, options, _FIELD)
  try:
    config = config_kind(**values, size=CHUNK)
    kind(dataclasses.replace(config, seed=0, size=_TRIED))
  except Exception as error:  # data sets check their options by assertions, and some only where they use them
    given = ', '.join(f'{_FIELD}.{name} = {value!r}' for name, value in options.items()) or f'{_FIELD}.dataset = {dataset!r}'
    usual = ', '.join(f'{name} = {value!r}' for name, value in _defaults(config_kind).items())
    said = f'the data set {dataset!r} refuses this ({type(error).__name__}: {error}); fix: other values'
    raise DataError(f'{given}: {said}; by default {usual}') from error
  return config


def _found(dataset: str, field: str) -> tuple[Any, Any]:
  """Returns the class of the data set that a field names, and the class of its config."""
  try:
    from reasoning_gym.factory import DATASETS  # imported here because the package is an extra and takes long to import
  except ImportError as error:
    raise DataError(
      f"task.name = 'reasoning_gym': the package reasoning-gym cannot be imported ({error}); fix: pip install -e '.[gym]'"
    ) from error
  if dataset not in DATASETS:
    raise DataError(unknown(field, dataset, dataset, DATASETS))
  return DATASETS[dataset]


def _values(dataset: str, config_kind: Any, options: Mapping[str, Any], field: str) -> dict[str, Any]:
  """Returns the options of a data set, which the fields below `field` give, in the form that its config has."""
  defaults = _defaults(config_kind)
  values = {}
  for name, value in options.items():
    given = f'{field}.{name} = {value!r}'
    if name not in defaults:
      near = nearest(name, [*defaults, *OWN])
      hint = f' did you mean {near!r}?' if near else ''
      said = f'no option of the data set {dataset!r};{hint} fix: one of {", ".join(defaults) or "none, because it has none"}'
      raise DataError(f'{given}: {said}')
    values[name] = _parts(value, f'{field}.{name}') if dataset == 'composite' else _like(defaults[name], value, given)
  return values


def _parts(value: Any, field: str) -> list[Any]:
  """Returns the data sets of a mixture."""
  from reasoning_gym.composite import DatasetSpec

  said = f'{field} = {value!r}'
  fix = "fix: a tuple of dictionaries such as {'name': 'chain_sum', 'weight': 1.0, 'config': {'max_terms': 3}}"
  if not isinstance(value, tuple):
    raise DataError(f'{said}: no tuple; {fix}')
  specs = []
  for i, part in enumerate(value):
    given = part if isinstance(part, dict) else {}
    name, options = given.get('name'), given.get('config', {})
    if not isinstance(name, str) or not isinstance(options, dict) or given.keys() - {'name', 'weight', 'config'}:
      raise DataError(f'{said}: {part!r} does not describe a data set; {fix}')
    config_kind = _found(name, f'{field}[{i}].name')[1]
    specs.append(DatasetSpec(name, given.get('weight', 1.0), _values(name, config_kind, options, f'{field}[{i}].config')))
  return specs


def _defaults(config_kind: Any) -> dict[str, Any]:
  """Returns the options of a data set with their defaults."""
  usual = config_kind()
  return {field.name: getattr(usual, field.name) for field in dataclasses.fields(config_kind) if field.name not in _OURS}


def _like(default: Any, value: Any, said: str) -> Any:
  """Returns a value in the form that an option with this default has. `said` has field and value for errors."""
  if isinstance(value, list):
    raise DataError(f'{said}: a list, which a config cannot keep; fix: the tuple {tuple(value)!r}')
  if dataclasses.is_dataclass(default):
    raise DataError(f'{said}: its values are objects of the package, which a config cannot hold; fix: leave it out')
  if default is None:
    return list(value) if isinstance(value, tuple) else value
  if isinstance(default, list | tuple) and isinstance(value, tuple):
    return type(default)(_like(default[0] if default else None, item, said) for item in value)
  if isinstance(default, enum.Enum | datetime.date | datetime.time) and isinstance(value, str):
    try:
      return type(default)(value) if isinstance(default, enum.Enum) else type(default).fromisoformat(value)
    except ValueError as error:
      raise DataError(f'{said}: {error}; fix: a value such as {_plain(default)!r}') from error
  if type(default) is float and type(value) is int:
    return float(value)
  if type(value) is not type(default):
    raise DataError(
      f'{said}: {type(value).__name__} instead of {type(default).__name__}; fix: a value such as {_plain(default)!r}'
    )
  return value


def _plain(default: Any) -> Any:
  """Returns a default as a config can hold it."""
  if isinstance(default, enum.Enum):
    return default.value
  return default.isoformat() if isinstance(default, datetime.date | datetime.time) else default

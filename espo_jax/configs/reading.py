"""Reads a config from a file with command-line flags, or from the `config.json` of a run.

An error in a file, a flag or a field is reported in one line and not as a traceback.
"""

import json
import pathlib
import re
import runpy
import sys
import traceback
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import ml_collections
from absl import flags

from espo_jax import stops
from espo_jax.configs.defaults import STAGES, default_config
from espo_jax.configs.fields import ConfigError, flatten, get_field, is_known, near_field
from espo_jax.names import nearest
from espo_jax.registry import PLUGINS_HELP, PluginError, load_plugin

_KINDS = {bool: 'true or false', int: 'a whole number', float: 'a number', tuple: 'a tuple', str: 'a text'}


# ------------------------------------------------------------------------------------------------------------- the command line


def parse_flags(argv: Sequence[str], flag_values: flags.FlagValues = flags.FLAGS) -> list[str]:
  """Loads the user's files of `--plugins`, checks the flags and the config fields that they set, then calls absl's parser.

  It is meant for `app.run(main, flags_parser=parse_flags)`.

  Args:
    argv: The program's name and its arguments.
    flag_values: The flags that are defined.

  Returns:
    The program's name and the arguments that belong to no flag.
  """
  if 'plugins' not in flag_values:
    flags.DEFINE_multi_string('plugins', [], PLUGINS_HELP, flag_values)
  given = list(_given(argv[1:], flag_values))
  load_plugins([value for name, value in given if name == 'plugins'])  # before the options in them are looked for
  config, problems = None, []
  for path in [value for name, value in given if name == 'config']:
    config, problem = _read_config(path)
    problems += [problem] if problem else []
  if not problems:
    fields = flatten(config if config is not None else default_config())
    problems = [problem for name, value in given if (problem := _flag_problem(name, value, flag_values, config, fields))]
  if problems:
    sys.exit('\n'.join(f'error: {problem}' for problem in problems))
  try:
    return flag_values(list(argv))
  except (flags.Error, ValueError, TypeError, LookupError) as error:
    sys.exit(f'error: {_value_problem(str(error), flag_values, config)}')


def load_plugins(files: Iterable[str]) -> None:
  """Loads the user's files that a command's flags name. A file that cannot be loaded ends the command with one line."""
  for file in files:
    try:
      load_plugin(file)
    except PluginError as error:
      sys.exit(f'error: {error}')


def _given(words: Sequence[str], flag_values: flags.FlagValues) -> Iterator[tuple[str, str]]:
  """Yields the name and value of each flag as absl reads them, up to the first word that is no flag.

  The value is '' for a flag without one.
  """
  i = 0
  while i < len(words) and re.match('--?[^-]', words[i]):
    name, equals, value = words[i].lstrip('-').partition('=')
    if not equals and i + 1 < len(words) and not _stands_alone(name, flag_values) and not words[i + 1].startswith('--'):
      i += 1
      value = words[i]
    yield name, value
    i += 1


def _stands_alone(name: str, flag_values: flags.FlagValues) -> bool:
  """Whether a flag takes no value, because it is boolean."""
  plain = name.removeprefix('no') if name not in flag_values else name
  if plain in flag_values:
    return bool(flag_values[plain].boolean)
  try:
    return isinstance(get_field(default_config(), plain.removeprefix('config.')), bool)
  except (KeyError, TypeError):
    return False


def _read_config(path: str) -> tuple[ml_collections.ConfigDict | None, str]:
  """Returns the config that `--config=PATH` names and '', or None and what is wrong with it."""
  file, *argument = path.split(':', 1)
  if not pathlib.Path(file).is_file():
    return None, f'--config={path}: no such file; fix: --config=FILE, such as experiments/quickstart.py'
  try:
    config = runpy.run_path(file)['get_config'](*argument)
  except Exception as error:  # a config file is code and may raise anything
    return None, f'--config={path}: {_place(error, file)}{type(error).__name__}: {error}'
  if not isinstance(config, ml_collections.ConfigDict):
    return (
      None,
      f'--config={path}: get_config() returns {type(config).__name__}; fix: return the ConfigDict of default_config()',
    )
  return config, ''


def _flag_problem(
  name: str, value: str, flag_values: flags.FlagValues, config: ml_collections.ConfigDict | None, fields: dict[str, Any]
) -> str:
  """Returns what is wrong with a flag's name; '' if nothing is."""
  shown = f'--{name}={value}' if value else f'--{name}'
  if match := re.fullmatch(r'(?:no)?config\.(.*)', name):
    return f'{shown}: {problem}' if config is not None and (problem := _field_problem(match[1], config, fields)) else ''
  if name in flag_values or name.removeprefix('no') in flag_values:
    return ''
  if 'config' in flag_values:
    hint = f'did you mean --config.{name}?' if name in fields else ''
    if not hint and not (flag := nearest(name, _own(flag_values), likeness=0.8)):
      near = near_field(name, fields)
      hint = re.sub(r'([\w.]+\.\w+|\w+)(?= or |\?)', r'--config.\1', near) if near.startswith('did you mean') else ''
    hint = hint or (f'did you mean --{flag}?' if flag else '')
  else:
    flag = nearest(name.rpartition('.')[2], _own(flag_values))
    hint = f'did you mean --{flag}?' if flag else ''
  return f'{shown}: no such flag; {hint or "known: " + ", ".join(f"--{own}" for own in _own(flag_values))}'


def _field_problem(field: str, config: ml_collections.ConfigDict, fields: dict[str, Any]) -> str:
  """Returns what is wrong with a field that a flag sets; '' if nothing is."""
  plain = field.partition('[')[0]
  try:
    found = get_field(config, plain) if plain else None
  except (KeyError, TypeError, AttributeError):
    if is_known(plain, ()) and re.fullmatch(r'(\w+\.)+\w+', plain):
      return ''  # an option of an open section
    return f'no such field; {near_field(plain, fields)}'
  if not plain:
    return f'names no field; known: {", ".join(config)}'
  if '[' in field:
    return f'a part of {plain} cannot be set alone; fix: --config.{plain}={_quoted(found)}, the whole of it'
  if isinstance(found, ml_collections.ConfigDict):
    name = 'name' if 'name' in found else next(iter(found), 'NAME')
    return f'a section, not a field; fix: a field of it, such as --config.{plain}.{name}'
  return ''


def _value_problem(message: str, flag_values: flags.FlagValues, config: ml_collections.ConfigDict | None) -> str:
  """Adds to absl's message about a value which kind of value the flag takes."""
  match = re.search(r'--([\w.]+)', message)
  if not match:
    return message
  name, default = match[1], None
  if name.startswith('config.') and config is not None:
    field = name.removeprefix('config.')
    default = get_field(config, field) if field in flatten(config) else None
  elif name in flag_values:
    default = flag_values[name].default
  kind = _KINDS.get(type(default))
  fix = f'; fix: {kind}, such as --{name}={_quoted(default)}' if kind else f'; fix: a value, as in --{name}=...'
  return message.removeprefix('flag ') + fix


def _own(flag_values: flags.FlagValues) -> list[str]:
  """Returns the flags of the command without those that absl and ml_collections define."""
  theirs = ('absl.', 'ml_collections.')
  return sorted(
    flag.name
    for module, owned in flag_values.flags_by_module_dict().items()
    if not module.startswith(theirs)
    for flag in owned
    if not flag.name.startswith('config.')
  )


def _quoted(value: Any) -> str:
  """Writes a value as a shell accepts it."""
  return f'"{value}"' if isinstance(value, tuple) else str(value)


def _place(error: Exception, file: str) -> str:
  if isinstance(error, SyntaxError):
    return f'line {error.lineno}: '
  lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
  return f'line {lines[-1]}: ' if lines else ''


# --------------------------------------------------------------------------------------------------------- the run of a workdir


def run_of(folder: pathlib.Path) -> tuple[pathlib.Path, str | None]:
  """Returns the run to which the folder of an arm or of a stage belongs, and the name of this arm or stage.

  The folder of a run, or of anything else, is returned as it is, with None.
  """
  if not (folder / 'config.json').is_file():
    if folder.parent.name == 'arms' and (folder.parent.parent / 'config.json').is_file():
      return folder.parent.parent, folder.name
    if folder.name in STAGES and (folder.parent / 'config.json').is_file():
      return folder.parent, folder.name
  return folder, None


def load_config(path: str | pathlib.Path) -> ml_collections.ConfigDict:
  """Reads the config that `monitor.write_run_info` wrote, equal to the config of the run.

  JSON has no tuples and no infinities. Lists therefore become tuples. A null becomes the field's default, because the only
  infinite value that `validate` accepts is an infinite default.

  Raises:
    ConfigError: The file is no JSON object, or it holds a field that this version does not know.
  """
  config = default_config()
  expected = flatten(config)
  saved = {
    field: x for field, x in flatten(read_config_json(pathlib.Path(path))).items() if not _is_of_absent_rule(field, config)
  }
  if unknown := [field for field in saved if not is_known(field, expected)]:
    raise ConfigError([f'{field} in {path}: no such field in this version; {near_field(field, expected)}' for field in unknown])
  for field, value in saved.items():
    section, _, name = field.rpartition('.')
    holder = get_field(config, section) if section else config
    try:
      holder[name] = _restored(value, expected.get(field))
    except (TypeError, ValueError, AttributeError) as error:
      kind = _KINDS.get(type(expected.get(field)), 'another value')
      told = f'{field} = {str(value)[:100]!r} in {path}: not {kind}; fix: the value with which the run began'
      raise ConfigError([told]) from error
  return config.lock()


def kept_field(run: pathlib.Path, field: str) -> Any:
  """Returns a field of the config with which the run in a folder began; None if there is no run or its config is damaged."""
  path = run / 'config.json'
  try:
    return get_field(load_config(path), field) if path.is_file() else None
  except (ConfigError, ValueError):  # the checks that read more of this file report the error
    return None


def _is_of_absent_rule(field: str, config: ml_collections.ConfigDict) -> bool:
  """Whether a field is an option of a user's stop rule whose file is not loaded, because only training reads the option."""
  section, _, rule = field.rpartition('.')[0].partition('.')
  return section == 'stop' and bool(rule) and rule not in config.stop and rule not in stops.REGISTRY


def read_config_json(path: pathlib.Path) -> dict[str, Any]:
  """Returns the object in a `config.json`, of a run or of a model.

  Raises:
    ConfigError: The file is no JSON object.
  """
  fix = 'fix: the config.json that espo_jax.train wrote'
  try:
    found = json.loads(path.read_text())
  except (ValueError, RecursionError) as error:
    raise ConfigError([f'{path}: not JSON ({error}); {fix}']) from error
  if not isinstance(found, dict):
    raise ConfigError([f'{path}: not an object but {type(found).__name__}; {fix}'])
  return found


def _restored(value: Any, default: Any) -> Any:
  if value is None and isinstance(default, float):
    return default
  if isinstance(value, dict):  # an item of a tuple, because all other objects are sections
    return {name: _restored(item, None) for name, item in value.items()}
  return tuple(_restored(item, None) for item in value) if isinstance(value, list) else value

"""The command line's part of a config: what is wrong with `--config` is said in one line, not in a traceback."""

import re
import runpy
import sys
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path

import ml_collections
from absl import app

from espo_jax.configs.fields import flatten, get_field, is_known, near_field


def parse_flags(argv: Sequence[str]) -> list[str]:
  """Absl's parser, for `app.run(main, flags_parser=parse_flags)`, after a look at `--config` and the fields it overrides."""
  for arg, following in zip(argv, [*argv[1:], ''], strict=True):
    if match := re.fullmatch('--?config(?:=(.*))?', arg):
      path = following if match[1] is None else match[1]
      if problems := list(_problems(path, argv)):
        sys.exit('\n'.join(f'error: {problem}' for problem in problems))
  return app.parse_flags_with_usage(list(argv))


def _problems(path: str, argv: Sequence[str]) -> Iterator[str]:
  file, *argument = path.split(':', 1)
  if not Path(file).is_file():
    yield f'--config={path}: no such file; fix: --config=FILE, such as experiments/quickstart.py'
    return
  try:
    config = runpy.run_path(file)['get_config'](*argument)
  except Exception as error:  # a config file is code and may raise anything
    yield f'--config={path}: {_place(error, file)}{type(error).__name__}: {error}'
    return
  if not isinstance(config, ml_collections.ConfigDict):
    yield f'--config={path}: get_config() returns {type(config).__name__}; fix: return the ConfigDict of default_config()'
    return
  for arg in argv:
    if (match := re.match(r'--?(?:no)?config\.([^=\[]+)', arg)) and not is_known(match[1], ()):
      try:
        get_field(config, match[1])
      except (KeyError, TypeError):
        yield f'{arg}: no such field; {near_field(match[1], flatten(config))}'


def _place(error: Exception, file: str) -> str:
  if isinstance(error, SyntaxError):
    return f'line {error.lineno}: '
  lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
  return f'line {lines[-1]}: ' if lines else ''

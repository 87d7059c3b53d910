"""Parses the flags of a command, and recognises misspelt ones."""

import argparse
import re
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from espo_jax.configs.reading import load_plugins
from espo_jax.names import nearest
from espo_jax.registry import PLUGINS_HELP

_KINDS = {'int': 'a whole number', 'float': 'a number'}


class NamedValues(argparse.Action):
  """Collects the pairs `NAME=VALUE` behind all occurrences of a flag. A name that is given twice ends the command."""

  def __call__(
    self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option_string: Any = None
  ) -> None:
    """Adds the pairs of one occurrence. The first occurrence replaces the default."""
    before = getattr(namespace, self.dest)
    found = [] if before is self.default else list(before)
    for name, value in values:
      if name in dict(found):
        parser.error(f'{option_string} {name}=...: given twice; fix: once')
      found.append((name, value))
    setattr(namespace, self.dest, found)


class CommandParser(argparse.ArgumentParser):
  """An argument parser that ends a command with a one-line error: the flag, its value and the fix.

  A misspelt flag is reported before any other error. Every command takes `--plugins=FILE`. The files are loaded once the flags
  are parsed.
  """

  def __init__(self, *args: Any, **kwargs: Any):
    """Makes a parser like the base class, with the flag `--plugins`."""
    super().__init__(*args, **kwargs)
    self.add_argument('--plugins', action='append', default=[], metavar='FILE', help=PLUGINS_HELP)

  def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
    """Parses like the base class. An unknown flag is reported before a missing one, because it may be its misspelling."""
    words = sys.argv[1:] if args is None else list(args)
    own = [name for name in self._option_string_actions if name.startswith('--')]
    for word in words:
      name = word.partition('=')[0]
      if name == '--':
        break
      if name.startswith('--') and not any(flag.startswith(name) for flag in own):
        last = name.lstrip('-').rpartition('.')[2]
        meant = nearest(last, [flag.lstrip('-') for flag in own])
        hint = f'did you mean --{meant}?' if meant else f'known: {", ".join(own)}'
        sys.exit(f'error: {word}: no such flag of {self.prog}; {hint}')
    found = super().parse_args(words, namespace)
    load_plugins(vars(found).pop('plugins'))
    return found

  def error(self, message: str) -> NoReturn:
    """Ends the command with one line."""
    if match := re.fullmatch(r"argument (\S+): invalid (\w+) value: '(.*)'", message, re.DOTALL):
      flag, kind, value = match.groups()
      default = self.get_default(flag.lstrip('-'))
      message = f'{flag}={value}: not {_KINDS.get(kind, kind)}; fix: {flag}={"..." if default is None else default}'
    elif match := re.fullmatch(r"argument (\S+): invalid choice: '(.*?)' \(choose from (.*)\)", message, re.DOTALL):
      flag, value, known = match.groups()
      choices = known.replace("'", '')
      meant = nearest(value, choices.split(', '))
      message = f'{flag}={value}: unknown; {f"did you mean {meant}? " if meant else ""}fix: one of {choices}'
    elif match := re.fullmatch(r'the following arguments are required: (.*)', message, re.DOTALL):
      names = match[1].split(', ')
      message = f'{match[1]} {"is" if len(names) == 1 else "are"} missing; fix: {" ".join(f"{name}=..." for name in names)}'
    elif match := re.fullmatch(r'argument (\S+): expected (.*)', message, re.DOTALL):
      message = f'{match[1]}: without a value; fix: {match[1]}=...'
    elif match := re.fullmatch(r'unrecognized arguments: (.*)', message, re.DOTALL):
      message = f'{match[1]}: belongs to no flag; fix: every option is a flag, as --NAME=VALUE'
    elif match := re.fullmatch(r'argument \S+: (--.*)', message, re.DOTALL):  # an error of our own types, which is complete
      message = match[1]
    sys.exit(f'error: {message}')

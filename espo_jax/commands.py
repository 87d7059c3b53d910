"""What all commands have in common: flags that are read with an eye for slips, errors of the machine that say what to do."""

import argparse
import contextlib
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NoReturn

import ml_collections

from espo_jax.configs.memory import smaller
from espo_jax.memory import LOADING, READING, OutOfMemory, during
from espo_jax.parallel import DeviceError
from espo_jax.spelling import nearest

_KINDS = {'int': 'a whole number', 'float': 'a number'}


class CommandParser(argparse.ArgumentParser):
  """An argument parser that ends a command with one line: the flag, its value and the fix, a misspelt flag first of all."""

  def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
    """As the base; an unknown flag is told before what is missing, since it may be just that."""
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
    return super().parse_args(words, namespace)

  def error(self, message: str) -> NoReturn:
    """End the command with one line."""
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
    elif match := re.fullmatch(r'argument \S+: (--.*)', message, re.DOTALL):  # of a type that says all itself
      message = match[1]
    sys.exit(f'error: {message}')


@contextlib.contextmanager
def machine_errors(lower: Callable[[str], str]) -> Iterator[None]:
  """What the machine lacks, a device or memory, ends the command with a line that says what to do.

  Args:
    lower: Given the phase in which memory ran out, what to change.
  """
  try:
    with during(''):
      yield
  except DeviceError as error:
    sys.exit(f'error: {error}')
  except OutOfMemory as error:
    sys.exit(f'error: {error}; fix: {lower(error.phase)}')


def lower_fields(config: ml_collections.ConfigDict, phase: str, written: str = '--config.{}={}') -> str:
  """What to change of a training that ran out of memory.

  Args:
    config: The config of the run.
    phase: The phase in which that happened.
    written: The form in which a field and its value are set.
  """
  if phase == READING:
    return f'{written.format("data.path", "FILE")} with fewer rows, or a host with more memory'
  fields = {} if phase == LOADING else smaller(config, phase)
  if phase not in ('rollout', 'evaluation', 'score'):
    fields |= {'model.param_dtype': 'bfloat16'} if config.model.param_dtype == 'float32' else {}
  if phase == 'update' and not config.learner.offload_optimizer:
    fields['learner.offload_optimizer'] = True
  changes = [written.format(field, value) for field, value in fields.items()]
  return ', '.join([*changes, f'or {written.format("mesh.fsdp", -1)} on more devices'])


def lower_flags(flags: Mapping[str, Any], also: str) -> str:
  """What to change of a command with flags of its own.

  Args:
    flags: A value that takes less, by flag; None for those that cannot take less.
    also: Another thing that helps.
  """
  changes = [f'--{name}={value}' for name, value in flags.items() if value is not None]
  return ', '.join([*changes, f'or {also}'] if changes else [also])

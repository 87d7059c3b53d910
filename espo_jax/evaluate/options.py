"""Reads the methods that a flag names, with their options, from texts."""

import ast
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from espo_jax import registry
from espo_jax.evaluate.policies import RequestError

Texts = Sequence[tuple[str, str]]  # options with their values


def read_options(method: str, texts: Texts, known: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the values of options, each of the type of its default.

  Args:
    method: The name of the method, for messages.
    texts: The options that were given.
    known: All options of the method with their defaults.

  Raises:
    ValueError: An option is unknown or given twice, or a value has another type.
  """
  found: dict[str, Any] = {}
  for option, text in texts:
    if option in found:
      raise ValueError(f'{option}={text}: an option is given twice; fix: once')
    found[option] = _value(method, option, text, known)
  return found


class Named(NamedTuple):
  """A method that a flag names: its name and the options that were given."""

  name: str
  options: dict[str, Any]

  @property
  def label(self) -> str:
    """The name with the options that were given."""
    return ' '.join([self.name, *(f'{option}={value}' for option, value in self.options.items())])


def read_named(flag: str, register: registry.Register[Any], given: Iterable[tuple[str, Texts]]) -> Iterator[Named]:
  """Yields the methods that a flag names.

  Args:
    flag: The flag, for messages.
    register: The methods that there are.
    given: The name of each method with its options as texts.

  Raises:
    RequestError: A method or an option is unknown, an option is given twice, or a value has another type.
  """
  for name, texts in given:
    try:
      yield Named(name, read_options(name, texts, registry.defaults(register.find(name))))
    except ValueError as error:
      raise RequestError(f'{flag}={name}: {error}' if name in register else str(error)) from error


def _value(method: str, option: str, text: str, known: Mapping[str, Any]) -> Any:
  """Returns the value that a text stands for, of the type of the option's default."""
  if option not in known:
    raise ValueError(f'{option}={text}: no such option; fix: {", ".join(known) or f"none, because {method} has no options"}')
  if isinstance(known[option], str):
    return text
  try:
    value = ast.literal_eval(text)
  except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):  # a text may be anything
    value = text
  return registry.check_type(option, value, known[option])

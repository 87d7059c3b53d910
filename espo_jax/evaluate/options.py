"""Reads the options of a method that a flag names, from texts."""

import ast
from collections.abc import Mapping, Sequence
from typing import Any

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


def label(name: str, options: Mapping[str, Any]) -> str:
  """Returns the name of a method with the options that were given."""
  return ' '.join([name, *(f'{option}={value}' for option, value in options.items())])


def _value(method: str, option: str, text: str, known: Mapping[str, Any]) -> Any:
  if option not in known:
    raise ValueError(f'{option}={text}: no such option; fix: {", ".join(known) or f"none, because {method} has no options"}')
  wanted = type(known[option])
  if wanted is str:
    return text
  try:
    value = ast.literal_eval(text)
    value = float(value) if wanted is float and type(value) is int else value
  except (ValueError, TypeError, SyntaxError, OverflowError, MemoryError, RecursionError):  # a text may be anything
    value = None
  if type(value) is not wanted:
    raise ValueError(f'{option}={text}: not of type {wanted.__name__}; fix: such as {option}={known[option]}')
  return value

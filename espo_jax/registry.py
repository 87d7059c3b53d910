"""What a registered method says of itself: its paper, its options, and which of their defaults the paper publishes.

A method's positional parameters are what it reads, its keyword-only parameters are its options: the config sets them by name,
and the command `espo_jax.methods` lists them.
"""

import difflib
import inspect
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, TypeVar

from espo_jax.types import takes_numpy

Method = TypeVar('Method', bound=Callable[..., Any])


class Source(NamedTuple):
  """Where a method comes from; `published` are the options whose defaults are the paper's, the others are ours [U]."""

  paper: str
  published: tuple[str, ...]


def source(paper: str, *published: str) -> Callable[[Method], Method]:
  """Marks a method with its paper and with those of its options whose defaults the paper publishes; it `takes_numpy`."""

  def mark(method: Method) -> Method:
    method = takes_numpy(method)
    vars(method)['source'] = Source(paper, published)
    return method

  return mark


def source_of(method: Callable[..., Any]) -> Source:
  """What `source` said."""
  found: Source = vars(method)['source']
  return found


def options(method: Callable[..., Any]) -> dict[str, inspect.Parameter]:
  """The keyword-only parameters, by name."""
  parameters = inspect.signature(method).parameters
  return {name: p for name, p in parameters.items() if p.kind is inspect.Parameter.KEYWORD_ONLY}


def defaults(method: Callable[..., Any]) -> dict[str, Any]:
  """The options as they are where nothing sets them."""
  return {name: p.default for name, p in options(method).items()}


def inputs(method: Callable[..., Any]) -> tuple[str, ...]:
  """The names of the other parameters, in order."""
  return tuple(name for name, p in inspect.signature(method).parameters.items() if p.kind is not inspect.Parameter.KEYWORD_ONLY)


def chosen(method: Callable[..., Any], values: dict[str, Any]) -> dict[str, Any]:
  """Those of `values` that the method has options for."""
  return {name: value for name, value in values.items() if name in options(method)}


def unknown(field: str, value: str, name: str, known: Iterable[str]) -> str:
  """The message for a name that is not registered."""
  near = difflib.get_close_matches(name, known := sorted(known), n=1)
  hint = f' did you mean {near[0]!r}?' if near else ''
  return f'{field} = {value!r}: {name!r} is unknown;{hint} known: {", ".join(known)}'

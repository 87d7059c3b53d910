"""The decoders that a command asks for, and whether what they read is recorded."""

import ast
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from espo_jax import decoders, registry
from espo_jax.decoders import Decoder
from espo_jax.evaluate.policies import RequestError

RECORDED = ('tokens', 'logprobs', 'regret', 'values')  # the fields of `Samples` that --record adds to those of every evaluation
OF_FEATURES = ('confidence',)  # and those that --features adds to these


class Asked(NamedTuple):
  """A decoder that a command asks for: its name, the options that were given, and the decoder with them."""

  name: str
  options: dict[str, Any]
  decoder: Decoder

  @property
  def label(self) -> str:
    """The name with the options that were given."""
    return ' '.join([self.name, *(f'{name}={value}' for name, value in self.options.items())])


def asked_for(flags: Iterable[tuple[str, Sequence[tuple[str, str]]]]) -> list[Asked]:
  """Makes the decoders that flags name.

  Args:
    flags: The name of each decoder with its options as texts.

  Raises:
    RequestError: A decoder or an option is unknown, a value does not fit, or a decoder is asked for twice.
  """
  found: list[Asked] = []
  for name, texts in flags:
    try:
      make = decoders.REGISTRY.find(name)
      options = {option: _value(name, option, text, registry.defaults(make)) for option, text in texts}
      decoder = make(**options)
    except ValueError as error:
      raise RequestError(f'--decoder={name}: {error}' if name in decoders.REGISTRY else str(error)) from error
    found.append(Asked(name, options, decoder))
    if found[-1].label in [one.label for one in found[:-1]]:
      raise RequestError(f'--decoder={name}: asked for twice with the same options; fix: leave one out')
  return found


def check_recorded(asked: Iterable[Asked], record: bool, features: int) -> None:
  """Raises RequestError if a decoder reads what an evaluation with these flags would not record."""
  have = {*decoders.ALWAYS, *(RECORDED if record else ()), *(OF_FEATURES if features else ())}
  check_reads(asked, have, lambda one, field: f'--decoder={one.name}: {field!r} is not recorded; fix: {to_record(field)}')


def _value(decoder: str, option: str, text: str, known: Mapping[str, Any]) -> Any:
  """Returns an option's value, of the type of its default."""
  if option not in known:
    raise ValueError(f'{option}={text}: no such option; fix: {", ".join(known) or f"none, because {decoder} has no options"}')
  wanted = type(known[option])
  if wanted is str:
    return text
  try:
    value = ast.literal_eval(text)
  except (ValueError, SyntaxError):
    value = None
  value = float(value) if wanted is float and type(value) is int else value
  if type(value) is not wanted:
    raise ValueError(f'{option}={text}: not of type {wanted.__name__}; fix: such as {option}={known[option]}')
  return value


def check_reads(asked: Iterable[Asked], have: Iterable[str], message: Callable[[Asked, str], str]) -> None:
  """Raises RequestError if a decoder reads a field that is not there.

  Args:
    asked: The decoders.
    have: The fields of `Samples` that are there.
    message: A function that describes a decoder and the field that it lacks.
  """
  for one in asked:
    if lacking := sorted(one.decoder.reads.difference(have)):
      raise RequestError(message(one, lacking[0]))


def to_record(field: str) -> str:
  """Returns the flags of an evaluation that record a field."""
  return '--record --features=1' if field in OF_FEATURES else '--record'

"""Declares the fields of a config: a default, a meaning, the allowed values, and a mark for where the default comes from."""

from collections.abc import Callable, Collection, Iterator
from typing import Any, NamedTuple, TypeAlias

import ml_collections

from espo_jax.tasks.task import lookup

PUBLISHED = 'published'  # the paper's value
UNPUBLISHED = '[U]'  # the paper has this constant and leaves out its value: the value is our choice
OURS = 'ours'  # no paper has it


class Range(NamedTuple):
  """The numbers that a field may have.

  Attributes:
    text: The range in words, such as 'above 0'.
    outside: The test whether a number is out of range. A nan is not outside, because another check reports it.
    stage: The only stage that reads the field; '' if the range always holds.
  """

  text: str
  outside: Callable[[Any], bool]
  stage: str = ''

  def problems(self, field: str, value: Any, stages: Collection[str]) -> Iterator[str]:
    """What is wrong with a field's value in a run of these stages."""
    if (not self.stage or self.stage in stages) and self.outside(value):
      yield f'{field} = {value}: out of range; fix: a number {self.text}'


class Names(NamedTuple):
  """The names that a field, or each entry of a field that is a tuple, may have.

  Attributes:
    known: The names. A registry may still grow.
    kind: The word for what the names name, such as 'stop rule'; '' if the field's own name says it.
    checked: Whether the name is checked here. Otherwise it is checked where it is used.
    training: Whether only training reads the field. Then a config that trains nothing may have any name.
  """

  known: Collection[str]
  kind: str = ''
  checked: bool = True
  training: bool = False

  @property
  def text(self) -> str:
    """All names, separated by commas."""
    return ', '.join(self.known)

  def problems(self, field: str, value: Any, stages: Collection[str]) -> Iterator[str]:
    """What is wrong with a field's value in a run of these stages."""
    for name in (value if isinstance(value, tuple) else (value,)) if self.checked and (stages or not self.training) else ():
      if not self.kind:
        if name not in self.known:
          yield f'{field} = {value!r}: unknown; fix: one of {self.text}'
        continue
      try:
        lookup(self.kind, name, dict.fromkeys(self.known))
      except ValueError as error:
        yield f'{field} = {value!r}: {error}'


ABOVE_0 = Range('above 0', lambda x: x <= 0)
AT_LEAST_0 = Range('of at least 0', lambda x: x < 0)
SHARE = Range('in [0, 1]', lambda x: x < 0 or x > 1)
SHARE_ABOVE_0 = Range('in (0, 1]', lambda x: x <= 0 or x > 1)
BELOW_1 = Range('in [0, 1)', lambda x: x < 0 or x >= 1)


def in_stage(stage: str, allowed: Range) -> Range:
  """Returns a range that is checked only in runs with this stage, because no other stage reads the field."""
  return allowed._replace(stage=stage)


class Field(NamedTuple):
  """A field of a config.

  Attributes:
    default: The value of a field that nothing sets. It gives the field its type.
    help: The meaning of the field, in one line.
    allowed: The values that the field may have; None if its type or a check across fields is enough.
    mark: `PUBLISHED`, `UNPUBLISHED` or `OURS`; '' for a field that concerns no paper.
  """

  default: Any
  help: str
  allowed: Range | Names | None = None
  mark: str = ''


class Section(NamedTuple):
  """A section of a config.

  Attributes:
    help: The topic of the section's fields, in one line.
    entries: The fields and nested sections, in order.
    is_open: Whether the section also holds options of the method that it names.
  """

  help: str
  entries: 'dict[str, Entry]'
  is_open: bool = False


Entry: TypeAlias = Field | Section


def section(help: str, /, **entries: Entry) -> Section:
  """Returns a section that holds these fields and sections only."""
  return Section(help, entries)


def open_section(help: str, /, **entries: Entry) -> Section:
  """Returns a section that holds these fields and sections, and options of the method that it names."""
  return Section(help, entries, is_open=True)


def sections(top: Section, prefix: str = '') -> Iterator[tuple[str, Section]]:
  """Yields a section, whose name is `prefix`, and all its nested sections with their dotted names, in order."""
  yield prefix, top
  for name, entry in top.entries.items():
    if isinstance(entry, Section):
      yield from sections(entry, f'{prefix}.{name}' if prefix else name)


def fields(top: Section, prefix: str = '') -> Iterator[tuple[str, Field]]:
  """Yields all fields with their dotted names, in order."""
  for name, entry in top.entries.items():
    dotted = f'{prefix}.{name}' if prefix else name
    if isinstance(entry, Section):
      yield from fields(entry, dotted)
    else:
      yield dotted, entry


def build(top: Section) -> ml_collections.ConfigDict:
  """Returns an unlocked config in which every field has its default."""
  config = ml_collections.ConfigDict()
  for name, entry in top.entries.items():
    config[name] = build(entry) if isinstance(entry, Section) else entry.default
  return config

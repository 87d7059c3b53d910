"""How a field of a config is declared: a default, what it means, the values it may have, and where the default comes from."""

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
    text: What they are, such as 'above 0'.
    outside: Whether a number is none of them. A nan is not outside, because another check reports it.
    stage: The stage that alone reads the field; '' where the range always holds.
  """

  text: str
  outside: Callable[[Any], bool]
  stage: str = ''

  def problems(self, field: str, value: Any, stages: Collection[str]) -> Iterator[str]:
    """What is wrong with a field's value in a run of these stages."""
    if (not self.stage or self.stage in stages) and self.outside(value):
      yield f'{field} = {value}: out of range; fix: a number {self.text}'


class Names(NamedTuple):
  """The names that a field may have, or each entry of a tuple.

  Attributes:
    known: The names; a registry may still grow.
    kind: What they name, such as 'stop rule'; '' where the field says it.
    checked: Whether the check is made here, and not where the name is used.
    training: Whether the field is read by training alone, and free where nothing is trained.
  """

  known: Collection[str]
  kind: str = ''
  checked: bool = True
  training: bool = False

  @property
  def text(self) -> str:
    """All names."""
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
  """A range that holds where the run has this stage, which alone reads the field."""
  return allowed._replace(stage=stage)


class Field(NamedTuple):
  """A field of a config.

  Attributes:
    default: The value where nothing sets it, which gives the field its type.
    help: What it means, in one line.
    allowed: The values that it may have; None where its type says all, or a check of several fields does.
    mark: `PUBLISHED`, `UNPUBLISHED` or `OURS`; '' where no paper has to do with it.
  """

  default: Any
  help: str
  allowed: Range | Names | None = None
  mark: str = ''


class Section(NamedTuple):
  """A section of a config.

  Attributes:
    help: What its fields are about, in one line.
    entries: The fields and the sections inside of it, in order.
    is_open: Whether it also holds options that what it names takes.
  """

  help: str
  entries: 'dict[str, Entry]'
  is_open: bool = False


Entry: TypeAlias = Field | Section


def section(help: str, /, **entries: Entry) -> Section:
  """A section that holds these fields and sections, and nothing else."""
  return Section(help, entries)


def open_section(help: str, /, **entries: Entry) -> Section:
  """A section that also holds options of what it names."""
  return Section(help, entries, is_open=True)


def sections(top: Section, prefix: str = '') -> Iterator[tuple[str, Section]]:
  """The section itself and all sections in it by dotted name, in order; the name of the first is `prefix`."""
  yield prefix, top
  for name, entry in top.entries.items():
    if isinstance(entry, Section):
      yield from sections(entry, f'{prefix}.{name}' if prefix else name)


def fields(top: Section, prefix: str = '') -> Iterator[tuple[str, Field]]:
  """All fields by dotted name, in order."""
  for name, entry in top.entries.items():
    dotted = f'{prefix}.{name}' if prefix else name
    if isinstance(entry, Section):
      yield from fields(entry, dotted)
    else:
      yield dotted, entry


def build(top: Section) -> ml_collections.ConfigDict:
  """A config in which every field has its default, unlocked."""
  config = ml_collections.ConfigDict()
  for name, entry in top.entries.items():
    config[name] = build(entry) if isinstance(entry, Section) else entry.default
  return config

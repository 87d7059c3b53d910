"""Prints the fields of a config as text and as Markdown, for `python -m espo_jax.methods config`."""

import textwrap
from collections.abc import Iterator, Sequence

from espo_jax.configs.defaults import SCHEMA
from espo_jax.configs.schema import PUBLISHED, Field, Names, Section, sections
from espo_jax.names import nearest

HEAD = """## Config

`python -m espo_jax.methods config` lists these fields. A config file sets them, and so does the command line by their dotted
names, such as `--config.stop.target_rate=0.2`. Where the table says yes, the default is the paper's value. `[U]` marks a
constant whose value the paper leaves out, and `ours` a constant that no paper has.
"""


def describe(names: Sequence[str] = ()) -> str:
  """Lists the fields of some sections as text, each with its default, its allowed values and its meaning.

  Args:
    names: The dotted names of the sections, whose nested sections are listed too. Without names all sections are listed.

  Raises:
    ValueError: A name is no section. The message has the nearest name.
  """
  parts = []
  for name, section in _chosen(names):
    lines = [f'{name or "config"}: {section.help}']
    for dotted, field in _fields(name, section):
      said = [f'{dotted} = {field.default!r}', _allowed(field), field.mark]
      lines += [_wrapped('; '.join(filter(None, said)), '  '), _wrapped(field.help, '      ')]
    parts.append('\n'.join(lines))
  return '\n\n'.join(parts) + '\n'


def page(names: Sequence[str] = ()) -> str:
  """Lists what `describe` lists as Markdown, with one table per section."""
  parts = [HEAD]
  for name, section in _chosen(names):
    lines = [f'### config.{name}\n\n{section.help}\n'] if name else []
    if rows := [_row(dotted, field) for dotted, field in _fields(name, section)]:
      lines += ['| field | default | values | of the paper | meaning |', '|---|---|---|---|---|', *rows, '']
    parts.append('\n'.join(lines))
  return '\n'.join(parts)


def _row(name: str, field: Field) -> str:
  mark = {PUBLISHED: 'yes'}.get(field.mark, field.mark)
  cells = (f'`{name}`', f'`{field.default!r}`', _allowed(field), mark, field.help)
  return f'| {" | ".join(cell.replace("|", chr(92) + "|") for cell in cells)} |'


def _chosen(names: Sequence[str]) -> Iterator[tuple[str, Section]]:
  known = [name for name, _ in sections(SCHEMA) if name]
  for wanted in names:
    if wanted not in known:
      raise ValueError(f'config {wanted!r}: no such section; fix: {nearest(wanted, known) or "one of " + ", ".join(known)}')
  for name, section in sections(SCHEMA):
    if not names or any(name == wanted or name.startswith(f'{wanted}.') for wanted in names):
      yield name, section


def _fields(prefix: str, section: Section) -> Iterator[tuple[str, Field]]:
  """Yields the fields of a section with their dotted names, without those of nested sections."""
  for name, entry in section.entries.items():
    if isinstance(entry, Field):
      yield (f'{prefix}.{name}' if prefix else name), entry


def _allowed(field: Field) -> str:
  if not isinstance(field.allowed, Names):
    return field.allowed.text.removeprefix('of ') if field.allowed else ''
  return f'{"some" if isinstance(field.default, tuple) else "one"} of {field.allowed.text}'


def _wrapped(text: str, indent: str) -> str:
  return textwrap.fill(
    text, 128, initial_indent=indent, subsequent_indent='      ', break_long_words=False, break_on_hyphens=False
  )

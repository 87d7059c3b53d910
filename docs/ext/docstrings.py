"""Docstrings are Markdown with Google's sections: napoleon makes fields of the sections, and MyST reads the whole.

autodoc alone would read reStructuredText, in which Markdown's tables and indented formulas mean something else.
"""

import ast
import pathlib
from collections.abc import Iterable, Iterator
from typing import Any

import jax
from docutils import nodes
from docutils.utils import new_document
from myst_parser.parsers.sphinx_ import MystParser
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

ROOT = pathlib.Path(__file__).parents[2]


class Markdown(SphinxDirective):
  """Parses its content as Markdown, inside of reStructuredText."""

  has_content = True

  def run(self) -> list[nodes.Node]:
    """Returns the nodes of the content."""
    document = new_document(self.get_source_info()[0], self.state.document.settings)
    document.reporter = self.state.document.reporter
    MystParser().parse('\n'.join(self.content), document)
    return document.children


class Command(SphinxDirective):
  """Writes the docstring of a module without an import, because two modules that define the same flags exclude each other."""

  required_arguments = 1

  def run(self) -> list[nodes.Node]:
    """Returns the nodes of the docstring."""
    path = ROOT / f'{self.arguments[0].replace(".", "/")}.py'
    if not path.is_file():
      path = path.with_suffix('') / '__main__.py'
    if not path.is_file():
      raise self.error(f'{self.arguments[0]}: no module of the package; fix: such as espo_jax.train')
    text = ast.get_docstring(ast.parse(path.read_text())) or ''
    return self.parse_text_to_nodes('\n'.join(fenced(text.splitlines())))


def fenced(lines: Iterable[str]) -> Iterator[str]:
  """Yields lines of Markdown in which each indented block after an empty line is fenced: formulas and commands."""
  inside, before = False, ''
  for line in lines:
    if not inside and not before and line.startswith('  '):
      inside = True
      yield '```text'
    elif inside and line and not line.startswith('  '):
      inside = False
      yield '```'
    yield line
    before = line
  if inside:
    yield '```'


def as_markdown(_app: Sphinx, _what: str, _name: str, _object: Any, _options: Any, lines: list[str]) -> None:
  """Puts a docstring, in which napoleon has made fields of the sections, into the directive `markdown`."""
  if any(lines) and lines[0] != '.. markdown::':
    lines[:] = ['.. markdown::', '', *(f'   {line}'.rstrip() for line in fenced(lines)), '']


def keep_colons(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
  """Hides the docstring of a property from napoleon, which would take the words before its first colon for a type."""
  if what == 'property':
    as_markdown(app, what, name, obj, options, lines)


def is_inherited(_app: Sphinx, _what: str, _name: str, obj: Any, skip: bool, _options: Any) -> bool | None:
  """Leaves out what dataclasses and named tuples add to a class, because its `Attributes` section has the meanings."""
  if isinstance(obj, property | type) or skip:
    return None
  module = getattr(obj, '__module__', '') or ''
  return True if type(obj).__name__ == '_tuplegetter' or (callable(obj) and not module.startswith('espo_jax')) else None


def setup(app: Sphinx) -> dict[str, Any]:
  """Connects the extension."""
  app.add_directive('markdown', Markdown)
  app.add_directive('command', Command)
  jax.Array.__name__ = jax.Array.__qualname__ = 'Array'  # in some versions of jax a longer name, which annotations repeat
  app.connect('autodoc-process-docstring', keep_colons, priority=400)
  app.connect('autodoc-process-docstring', as_markdown, priority=600)  # napoleon's priority is 500
  app.connect('autodoc-skip-member', is_inherited)
  return {'parallel_read_safe': True}

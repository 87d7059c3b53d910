"""Docstrings are read once: an entry under Args stands alone, and an objective says its equation."""

import ast
import pathlib
import re

import pytest

from espo_jax import objectives

pytestmark = pytest.mark.quick

ROOT = pathlib.Path(__file__).parents[1]
FRAGMENT = re.compile(r'(Of|Their|Theirs|Its|As in|As|Likewise|By|In|From|With|To|For|Those|Which)\b', re.IGNORECASE)
SECTION = re.compile(r'(Args|Attributes|Raises):$')
ENTRY = re.compile(r'  ([\w*]+): (.*)$')


def entries(docstring: str) -> list[tuple[str, str]]:
  """The names and the first lines of the entries in Google's sections."""
  found, inside = [], False
  for line in docstring.splitlines():
    if re.match(r'\S', line):
      inside = bool(SECTION.match(line))
    elif inside and (entry := ENTRY.match(line)):
      found.append(entry.groups())
  return found


def fragments(source: str) -> list[str]:
  """The entries of a file that begin with a word that refers to something else."""
  documented = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module))
  docstrings = (text for node in documented if (text := ast.get_docstring(node)))
  return [f'{name}: {text}' for docstring in docstrings for name, text in entries(docstring) if FRAGMENT.match(text)]


@pytest.mark.parametrize('path', sorted((ROOT / 'espo_jax').rglob('*.py')), ids=lambda path: str(path.relative_to(ROOT)))
def test_no_entry_of_a_docstring_is_a_fragment(path):
  assert not fragments(path.read_text())


@pytest.mark.parametrize(
  ('entry', 'whole'),
  [
    ('Of all.', False),
    ('of the draws.', False),
    ('Theirs.', False),
    ('Likewise.', False),
    ('Its batch-to-batch state.', False),
    ('As in `generate`.', False),
    ('Their lengths, at least 1.', False),
    ('The rows of all processes.', True),
    ('Offsets into the cache.', True),
    ('Items of the list.', True),
    ('Assets of the run.', True),
  ],
)
def test_a_fragment_is_known_by_its_first_word(entry, whole):
  source = f'def f(x):\n  """Does it.\n\n  Args:\n    x: {entry}\n\n  Returns:\n    Of no concern.\n  """\n'
  assert fragments(source) == ([] if whole else [f'x: {entry}'])


@pytest.mark.parametrize('name', objectives.REGISTRY)
def test_an_objective_says_its_equation(name):
  assert 'loss = ' in (objectives.REGISTRY[name].function.__doc__ or '')

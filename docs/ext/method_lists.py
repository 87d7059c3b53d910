"""The directive `methods`, which writes the registered methods of a kind: paper, equation, options, comparisons that have it.

```{methods} stop
```
"""

import json
import os
import pathlib
import re
from collections import defaultdict
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

RESULTS = pathlib.Path(__file__).parents[2] / 'experiments' / 'results'


def compared(kind: str, field: str) -> dict[str, list[str]]:
  """Returns the pages of results that have an arm for which a config field names a method, for each method of a kind."""
  pages = defaultdict(list)
  for file in sorted(RESULTS.glob('*.json')):
    record = json.loads(file.read_text())
    if not isinstance(record, dict) or 'arms' not in record:
      continue
    values = {str(fields[field]) for fields in record['arms'].values() if field in fields}
    if kind == 'stop':  # an arm's folder has the name of its rule
      values |= {rule for run in record['runs'] for rule in run['arms'].values()}
    for name in {word for value in values for word in re.findall(r'[a-z_]\w*', value)}:  # a value may be an expression
      pages[name].append(file.stem)
  return pages


class Methods(SphinxDirective):
  """Writes the methods of the kind that its argument names."""

  required_arguments = 1

  def run(self) -> list[nodes.Node]:
    """Returns one section for each method."""
    from espo_jax import methods  # here, because it imports jax

    kind = self.arguments[0]
    if kind not in methods.REGISTERS:
      raise self.error(f'methods: unknown kind {kind!r}; fix: one of {", ".join(methods.REGISTERS)}')
    known = compared(kind, methods.REGISTERS[kind].field)
    folder = os.path.relpath(RESULTS, os.path.dirname(self.env.doc2path(self.env.docname)))
    parts = []
    for method in methods.methods():
      if method.kind == kind:
        pages = ', '.join(f'[{page}]({folder}/{page}.md)' for page in known[method.name])
        parts.append(
          f'{methods.section(method)}\n{f"Compared in {pages}." if pages else "No comparison here has it by name."}\n'
        )
    return self.parse_text_to_nodes('\n'.join(parts), allow_section_headings=True)


def setup(app: Sphinx) -> dict[str, Any]:
  """Connects the extension."""
  app.add_directive('methods', Methods)
  return {'parallel_read_safe': True}

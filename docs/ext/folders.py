"""A link to a folder leads to the page about it: GitHub lists a folder's files, and a site has no such pages."""

import os
from typing import Any

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util.nodes import make_refnode

PAGES = {
  'experiments': 'docs/results',
  'experiments/plugins': 'docs/own',
  'experiments/results': 'docs/results',
  'notebooks': 'docs/index',
}


class Folders(SphinxPostTransform):
  """Resolves links to folders: those of a room lead to its entry in the reference of the API."""

  default_priority = 8  # before MyST, which warns of them

  def run(self, **kwargs: Any) -> None:
    """Replaces the links of one page."""
    modules = self.env.domains.python_domain.modules
    for node in list(self.document.findall(pending_xref)):
      if node['reftype'] != 'myst' or node['refdomain'] is not None:
        continue
      folder = os.path.normpath(os.path.join(os.path.dirname(node['refdoc']), node['reftarget']))
      room = modules.get(folder.replace('/', '.'))
      page, anchor = (room.docname, room.node_id) if room else (PAGES.get(folder), '')
      if page:
        content = nodes.inline('', '', *node[0].deepcopy().children)
        node.replace_self(make_refnode(self.app.builder, node['refdoc'], page, anchor, content))


def setup(app: Sphinx) -> dict[str, Any]:
  """Connects the extension."""
  app.add_post_transform(Folders)
  return {'parallel_read_safe': True}

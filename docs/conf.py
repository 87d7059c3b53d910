"""The site of the documentation: `scripts/docs.sh` builds it with Sphinx into docs/_build/html.

The root of the pages is the repository, so that a link between pages is the same path here and on GitHub. The pages of results
and the notebooks stay where they are.
"""

import pathlib
import sys

ROOT = pathlib.Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / 'docs' / 'ext')]

project = 'espo_jax'
author = 'The espo_jax authors'
copyright = f'2026, {author}'

extensions = [
  'myst_nb',
  'sphinx.ext.autodoc',
  'sphinx.ext.napoleon',
  'sphinx.ext.viewcode',
  'docstrings',
  'folders',
  'formulas',
  'method_lists',
]

root_doc = 'docs/index'
include_patterns = ['*.md', 'docs/**.md', 'experiments/**.md', 'notebooks/*.ipynb']
exclude_patterns = ['.*', 'docs/_build', 'runs', 'models', 'data', 'evaluations', '**/.ipynb_checkpoints']
templates_path = ['_templates']

html_theme = 'furo'
html_title = 'espo_jax'
html_static_path = ['_static']
html_css_files = ['wide.css']
html_math_renderer = 'mathml'
html_additional_pages = {'index': 'home.html'}
html_copy_source = False
html_show_sphinx = False

myst_enable_extensions = ['dollarmath', 'fieldlist']  # formulas of the notebooks; parameters in docstrings
myst_heading_anchors = 3
nb_execution_mode = 'off'  # they train; tests/test_notebooks.py runs them

smartquotes = False  # they would join the dashes of flags
default_role = 'literal'  # docstrings write code in single backticks
autodoc_member_order = 'groupwise'
autodoc_typehints_format = 'short'
napoleon_numpy_docstring = False
napoleon_use_ivar = True
maximum_signature_line_length = 88

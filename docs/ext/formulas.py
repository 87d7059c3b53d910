"""Writes formulas as MathML, which browsers draw by themselves, so that a page needs no network."""

from typing import Any

from docutils import nodes
from docutils.utils.math import latex2mathml
from sphinx.application import Sphinx
from sphinx.writers.html5 import HTML5Translator


def in_line(translator: HTML5Translator, node: nodes.math) -> None:
  """Writes a formula inside of a sentence."""
  translator.body.append(latex2mathml.tex2mathml(node.astext()))
  raise nodes.SkipNode


def block(translator: HTML5Translator, node: nodes.math_block) -> None:
  """Writes a formula on lines of its own."""
  translator.body.append(latex2mathml.tex2mathml(node.astext(), as_block=True))
  raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, Any]:
  """Connects the extension."""
  app.add_html_math_renderer('mathml', inline_renderers=(in_line, None), block_renderers=(block, None))
  return {'parallel_read_safe': True}

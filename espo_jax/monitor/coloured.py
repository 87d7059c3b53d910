"""A rollout as HTML, coloured by regret: what a notebook shows."""

import html

import numpy as np

from espo_jax.monitor.examples import Example

_COLOUR = '213, 94, 0'  # vermillion of Okabe and Ito
_BREAK = '↵\n'


def coloured(example: Example) -> str:
  """The question and the tokens, each on a ground that is full where the regret is the rollout's largest and white at 0.

  A token's title has its numbers, a line break is marked. What was decoded behind a stop, for measurement only, is grey.
  """
  regret = np.nan_to_num(example.regret)
  most = max(float(regret.max()), 1e-9)
  spans = []
  for t, token in enumerate(example.tokens[: len(example.regret)]):
    numbers = f'regret {example.regret[t]:.3f}, z {example.z[t]:.3f}, threshold {example.threshold[t]:.3f}'
    ink = 'color: #999; ' if t >= example.length else ''
    ground = f'background: rgba({_COLOUR}, {max(float(regret[t]), 0.0) / most:.2f})'
    spans.append(f'<span title="{numbers}" style="{ink}{ground}">{html.escape(token).replace(chr(10), _BREAK)}</span>')
    if example.stopped and t == example.length - 1:
      spans.append('<b title="the stop rule ended it here">&#9632;</b>')
  question, outcome = html.escape(example.question), html.escape(example.outcome)
  style = 'font-family: monospace; white-space: pre-wrap; overflow-wrap: anywhere; margin-bottom: 1em'
  return f'<div style="{style}"><b>{outcome}</b>\n<span style="color: #5F6B7A">{question}</span>\n{"".join(spans)}</div>'

"""Warns when the policy has become almost certain of every token."""

from collections.abc import Sequence

import numpy as np

from espo_jax.monitor.diagnostics.registered import register
from espo_jax.registry import source

_SHARE = 0.1
_UPDATES = 5


@register('entropy_collapse')
@source('ours')
def entropy_collapse(entropy: Sequence[float]) -> str:
  """Warns while the mean entropy of the last five updates is below a tenth of that of the first five.

  Args:
    entropy: The entropy of the distribution that tokens are drawn from, in nats per token.
  """
  if len(entropy) < 2 * _UPDATES:
    return ''
  first, last = float(np.mean(entropy[:_UPDATES])), float(np.mean(entropy[-_UPDATES:]))
  if not last < _SHARE * first:
    return ''
  return f'entropy fell from {first:.3g} to {last:.3g} nats; fix: a lower learner.learning_rate, or a term for the entropy'

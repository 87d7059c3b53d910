"""Warns when the horizon cuts every row."""

import math
from collections.abc import Sequence

from espo_jax.monitor.diagnostics.registered import register
from espo_jax.registry import source


@register('all_truncated')
@source('ours')
def all_truncated(truncated: Sequence[float], turns: Sequence[float]) -> str:
  """Warns while the horizon cuts every row, because no row then has an answer.

  Episodes also count as cut where they run out of turns, in which each turn may have an answer. So with an environment this
  warns of nothing.

  Args:
    truncated: The share of rows that the horizon cut.
    turns: The mean number of turns of an episode; nan without an environment.
  """
  cut = truncated[-1] == 1 and math.isnan(turns[-1])
  return 'the horizon cut every row, so none has an answer; fix: a longer rollout.horizon' if cut else ''

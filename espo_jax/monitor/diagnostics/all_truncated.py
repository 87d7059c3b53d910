"""Warns when the horizon cuts every row."""

from collections.abc import Sequence

from espo_jax.monitor.diagnostics.registered import register
from espo_jax.registry import source


@register('all_truncated')
@source('ours')
def all_truncated(truncated: Sequence[float]) -> str:
  """Warns while the horizon cuts every row, because no row then has an answer.

  Args:
    truncated: The share of rows that the horizon cut.
  """
  return 'the horizon cut every row, so none has an answer; fix: a longer rollout.horizon' if truncated[-1] == 1 else ''

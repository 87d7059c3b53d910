"""Warns when no group has rows whose scores differ."""

from collections.abc import Sequence

from espo_jax.monitor.diagnostics.registered import register
from espo_jax.registry import source


@register('equal_groups')
@source('ours')
def equal_groups(equal_groups: Sequence[float]) -> str:
  """Warns while no prompt has rows whose scores differ: without a critic, such an update teaches nothing.

  Args:
    equal_groups: The share of groups without rows whose scores differ.
  """
  told = 'no group has rows whose scores differ; fix: easier or harder problems, or more rollout.samples'
  return told if equal_groups[-1] == 1 else ''

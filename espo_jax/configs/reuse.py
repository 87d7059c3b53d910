"""Checks `rollout.reuse` against the other fields."""

from collections.abc import Iterator

import ml_collections

from espo_jax import tasks
from espo_jax.configs.allocation import is_ragged


def reuse_problems(config: ml_collections.ConfigDict) -> Iterator[str]:
  """Yields why the last responses cannot be reused."""
  r = config.rollout
  if r.reuse.form == 'none':
    return
  where = f'rollout.reuse.form = {r.reuse.form!r}'
  off = "fix: rollout.reuse.form = 'none'"
  if not config.allocation.pool:
    yield f'{where} with allocation.pool = 0: no problem is asked twice; fix: allocation.pool = 512, say'
  elif config.allocation.name in tasks.ALLOCATORS and is_ragged(config):
    yield (
      f'{where} with allocation.name = {config.allocation.name!r}: a problem may have other rows each time; '
      "fix: allocation.name = 'uniform' or 'greso'"
    )
  if config.exits.every:
    yield f'{where} with exits.every = {config.exits.every}: drafts are verified at full depth; fix: exits.every = 0'
  if r.serial.inducer:
    yield f'{where} with rollout.serial.inducer = {r.serial.inducer!r}: cuts leave no whole rows to reuse; {off}'
  if config.critic.every > 1:
    yield f'{where} with critic.every = {config.critic.every}: rows go on at columns of their own; fix: critic.every = 1'
  if 'dead_groups' in (config.stop.name, *config.baselines):
    yield f"{where} with the rule 'dead_groups', which waits for all rows of a prompt; {off}, or another rule"

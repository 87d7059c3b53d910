"""Checks `environment` against the other fields."""

from collections.abc import Iterator

import ml_collections

from espo_jax import tasks
from espo_jax.configs.allocation import is_ragged
from espo_jax.configs.methods import method_options
from espo_jax.environments import REGISTRY, ROLES
from espo_jax.registry import chosen

# Rules that judge a row at a column, wait for a group, or fit a head to the columns of finished rows.
_BY_COLUMN = {'arrol', 'arrol_signed', 'dead_groups', 'duet_abort', 'own_price', 'wald'}


def environment_problems(config: ml_collections.ConfigDict) -> Iterator[str]:
  """Yields the settings that cannot be combined with an environment."""
  e, r = config.environment, config.rollout
  if not e.name:
    return
  where = f'environment.name = {e.name!r}'
  if e.name in REGISTRY:
    try:
      REGISTRY[e.name](**chosen(REGISTRY[e.name], method_options(config, 'environment')))
    except Exception as error:  # a user's code may raise anything
      yield str(error) if str(error).startswith('environment.') else f'{where}: its options are refused ({error})'
  if e.role and e.role not in ROLES:
    yield f"environment.role = {e.role!r}; fix: one of {', '.join(map(repr, ROLES))}, or '' for the environment's own"
  if e.repeats == 1:
    yield f'environment.repeats = 1 with {where}: every first turn would end its episode; fix: at least 2, or 0 for no limit'
  rows = r.prompts // max(r.parts, 1) * r.samples
  if 0 < r.slots < rows:
    yield f'rollout.slots = {r.slots} with {where}: each of {rows} rows keeps a slot for its episode; fix: rollout.slots = 0'
  if config.exits.every:
    yield f'exits.every = {config.exits.every} with {where}: observations are read at full depth; fix: exits.every = 0'
  if r.serial.inducer:
    yield (
      f'rollout.serial.inducer = {r.serial.inducer!r} with {where}: an episode is not cut for early answers; '
      "fix: rollout.serial.inducer = ''"
    )
  if r.reuse.form != 'none':
    yield f"rollout.reuse.form = {r.reuse.form!r} with {where}: a draft has no observations; fix: rollout.reuse.form = 'none'"
  if r.record:
    yield f'rollout.record = {r.record} with {where}: a stop rule would be replayed on observations; fix: rollout.record = 0'
  if config.critic.every > 1:
    yield f'critic.every = {config.critic.every} with {where}: turns begin at columns of their own; fix: critic.every = 1'
  if config.allocation.name in tasks.ALLOCATORS and is_ragged(config):
    yield (
      f'allocation.name = {config.allocation.name!r} with {where}: all rows of a problem are begun at once; '
      "fix: allocation.name = 'uniform' or 'greso'"
    )
  if config.stop.returns in ('head', 'roulette'):
    yield (
      f'stop.returns = {config.stop.returns!r} with {where}: what is left of an episode is not a function of its columns; '
      "fix: stop.returns = 'fail', 'zero', 'value', 'drop' or 'graded'"
    )
  for rule in sorted({config.stop.name, *config.baselines} & _BY_COLUMN):
    yield f'the rule {rule!r} with {where}: it judges rows or fits a head by columns, observations included; fix: another rule'
  if config.eval.draft_blocks:
    yield f'eval.draft_blocks = {config.eval.draft_blocks} with {where}: drafts answer in one turn; fix: eval.draft_blocks = 0'

"""Checks `environment` against the other fields."""

import inspect
from collections.abc import Iterator

import jax
import ml_collections

from espo_jax import stops, tasks
from espo_jax.configs.allocation import is_ragged
from espo_jax.configs.methods import method_options
from espo_jax.environments import ROLES, traits


def environment_problems(config: ml_collections.ConfigDict) -> Iterator[str]:
  """Yields the settings that cannot be combined with an environment."""
  e, r = config.environment, config.rollout
  if not e.name:
    return
  where = f'environment.name = {e.name!r}'
  try:
    of = traits(e.name, method_options(config, 'environment'))
    if of.task and config.task.name != of.task:
      other = f'task.name = {config.task.name!r}'
      yield f'{where} with {other}: it plays the task {of.task!r} alone; fix: task.name = {of.task!r}'
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
  for rule in sorted({config.stop.name, *config.baselines} & set(stops.REGISTRY)):
    if _reads_columns(stops.REGISTRY[rule]()):
      yield f'the rule {rule!r} with {where}: it reads groups or ends of rows by columns; fix: another rule'
  if config.eval.draft_blocks:
    yield f'eval.draft_blocks = {config.eval.draft_blocks} with {where}: drafts answer in one turn; fix: eval.draft_blocks = 0'


def _reads_columns(rule: stops.StopRule) -> bool:
  """Returns whether a rule judges a group, has a head, or needs how rows ended. Each takes a row's columns for its tokens."""
  if rule.group is not None or jax.eval_shape(lambda: rule.init(1)).adaptive.head is not None:
    return True
  hindsight = inspect.signature(rule.adapt).parameters.get('hindsight')
  return hindsight is not None and hindsight.default is inspect.Parameter.empty

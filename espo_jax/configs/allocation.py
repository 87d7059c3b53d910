"""Checks the section `allocation`."""

from collections.abc import Iterator

import ml_collections

from espo_jax import objectives, registry, rewards, tasks

_OF_GROUPS = {'adacot', 'adr_modes', 'grpo_lambda', 'l_grpo'}  # rewards that ask how many rows of the prompt are right


def is_ragged(config: ml_collections.ConfigDict) -> bool:
  """Whether the config's allocator may give problems different numbers of rows."""
  return tasks.ALLOCATORS[config.allocation.name]().share_out is not None


def allocation_problems(config: ml_collections.ConfigDict) -> Iterator[str]:
  """Yields why an allocator cannot act."""
  a, r = config.allocation, config.rollout
  if not a.pool:
    if a.name != 'uniform':
      yield (
        f'allocation.pool = {a.pool}: allocation.name = {a.name!r} remembers the problems of a pool; '
        'fix: allocation.pool = 512, say'
      )
    return
  if a.pool < r.prompts:
    yield f'allocation.pool = {a.pool}: a rollout has rollout.prompts = {r.prompts} problems; fix: at least so many'
  bands, rate = a.get('bands'), a.get('rate')  # of the bandits
  if bands is not None and bands < 1:
    yield f'allocation.bands = {bands}: problems between all wrong and all right need a band; fix: allocation.bands = 3, say'
  if rate is not None and not 0 < rate <= 1:
    yield f'allocation.rate = {rate}: a share of the draws, above 0 and at most 1; fix: allocation.rate = 0.1, say'
  options = registry.defaults(tasks.ALLOCATORS[a.name]) | a.to_dict()
  low, high = options.get('low'), options.get('high')  # of 'pilot_commit'
  if low is not None and high is not None and not 0 <= low <= high <= 1:
    yield (
      f'allocation.low = {low}, allocation.high = {high}: no share of right pilots is between them; '
      'fix: allocation.low = 0.125 and allocation.high = 0.75, say'
    )
  easy, hard = options.get('easy_above'), options.get('hard_below')  # of 'greso'
  if easy is not None and hard is not None and easy <= hard:
    yield (
      f'allocation.easy_above = {easy}: a problem would be easy and hard at once, for it is not above '
      f'allocation.hard_below = {hard}; fix: a larger one'
    )
  for name in ('budget', 'base'):  # of 'duet'
    if options.get(name, 1) <= 0:
      yield f'allocation.{name} = {options[name]}: each problem would have one row; fix: a number above 0'
  if is_ragged(config):
    yield from _ragged(config)


def _ragged(config: ml_collections.ConfigDict) -> Iterator[str]:
  """Yields why problems cannot have different numbers of rows."""
  r, where = config.rollout, f'allocation.name = {config.allocation.name!r}'
  pilots = config.allocation.get('pilots')  # of 'pilot_commit'
  if pilots is not None and not 1 <= pilots < r.samples:
    yield (
      f'allocation.pilots = {pilots}: at least 1, and fewer than rollout.samples = {r.samples}; '
      'fix: allocation.pilots = 4 and rollout.samples = 16, say'
    )
  advantage = config.advantage.name or objectives.default_advantage(config.objective.name)
  if objectives.ADVANTAGES[advantage].critic:
    yield f"advantage.name = {advantage!r}: {where} needs one advantage per row; fix: objective.name = 'grpo'"
  if config.allocation.name == 'duet' and 'rwr' in objectives.parts(config.objective.name):
    yield f"objective.name = 'rwr': {where} scales advantages, and its weights are not linear in them; fix: 'grpo'"
  draws = r.max_draws or objectives.default_draws(config.objective.name)
  if draws > 1:
    yield f'rollout.max_draws = {draws}: {where} cannot replace groups; fix: rollout.max_draws = 1'
  if r.record:
    yield f'rollout.record = {r.record}: {where} leaves rows out, and a recording has them all; fix: rollout.record = 0'
  if r.serial.inducer:
    yield f"rollout.serial.inducer = {r.serial.inducer!r}: {where} leaves rows out; fix: rollout.serial.inducer = ''"
  for reader in readers_of_groups(config):
    yield f"{where}: {reader} would count a row that was not begun as wrong; fix: allocation.name = 'uniform'"


def readers_of_groups(config: ml_collections.ConfigDict) -> Iterator[str]:
  """Yields the rewards and the objectives that ask how many rows of a prompt are right, so that no row may be left out."""
  for name in sorted(set(rewards.names(config.reward.name)) & _OF_GROUPS):
    yield f'the reward {name!r}'
  for name in objectives.parts(config.objective.name):
    if 'prefers_short' in registry.inputs(objectives.get(name)):
      yield f'the objective {name!r}'

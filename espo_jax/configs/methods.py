"""Reads and checks the config sections that name methods.

The sections `objective`, `advantage`, `reward`, `exits` and `lesson` are open: besides their own fields they hold keyword
arguments of the method that they name. An option that is not set has the method's default.

A method is a line of a config. `objective.name = 'grpo + kl_k3'` is one objective and a term beside it, `reward.name = 'hmpo
& format'` is an expression over rewards, and `advantage.name = ''` is the objective's own. A paper's constants are therefore
written once, in the paper's file.
"""

import math
import re
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import ml_collections

from espo_jax import environments, exits, objectives, registry, rewards, tasks
from espo_jax.configs.allocation import allocation_problems
from espo_jax.configs.defaults import SCHEMA
from espo_jax.configs.fields import near_field
from espo_jax.configs.schema import Section


def method_options(config: ml_collections.ConfigDict, section: str) -> dict[str, Any]:
  """Returns the keyword arguments that a section sets for its method."""
  own = SCHEMA.entries[section]
  assert isinstance(own, Section)
  return {name: value for name, value in config[section].to_dict().items() if name not in own.entries}


def advantage_name(config: ml_collections.ConfigDict) -> str:
  """Returns the advantage that a config names, or the objective's own if the config names none."""
  return config.advantage.name or objectives.default_advantage(config.objective.name)


def trains_critic(config: ml_collections.ConfigDict) -> bool:
  """Whether there is a critic, which is the case if the advantages are computed from one."""
  return objectives.ADVANTAGES[advantage_name(config)].critic


def warmup_updates(config: ml_collections.ConfigDict) -> int:
  """Returns the most updates that the critic warm-up may take.

  Without that stage or without a critic it is 1, because the stop rule's moments need one update.
  """
  stage = 'critic_warmup' in config.stages and trains_critic(config)
  return max(1, round(config.gate.force_at * config.learner.updates)) if stage else 1


def max_draws(config: ml_collections.ConfigDict) -> int:
  """Returns the most rollouts per step: the config's number, or the objective's published one if the config sets none."""
  return config.rollout.max_draws or objectives.default_draws(config.objective.name)


def uses_reference(config: ml_collections.ConfigDict) -> bool:
  """Whether the reward or the loss needs the policy that reinforcement learning started from."""
  return bool(config.reward.kl_coef or objectives.reads_reference(config.objective.name, method_options(config, 'objective')))


def model_problems(config: ml_collections.ConfigDict) -> Iterator[str]:
  """Yields the unknown names without which a policy's model cannot be built.

  The model needs the name of the exit policy, and that of the objective, which decides whether there is a critic.
  """
  looked_up: list[Callable[[], object]] = [lambda: trains_critic(config)]
  if config.exits.every:
    looked_up.append(lambda: exits.get(config.exits.policy))
  for look_up in looked_up:
    try:
      look_up()
    except ValueError as error:
      yield str(error)


def method_problems(config: ml_collections.ConfigDict) -> Iterator[str]:
  """Yields what is wrong with the methods that a config names: their names, their options and their combination."""
  problems: list[str] = []
  named: dict[str, list[Callable[..., Any]]] = {}

  def look_up(section: str, find: Callable[[], list[Callable[..., Any]]]) -> None:
    try:
      named[section] = find()
    except ValueError as error:
      problems.append(str(error))

  look_up('objective', lambda: [objectives.get(name) for name in objectives.parts(config.objective.name)])
  look_up('reward', lambda: [rewards.REGISTRY[name] for name in rewards.names(config.reward.name)])
  look_up('allocation', lambda: [tasks.ALLOCATORS.find(config.allocation.name)])
  look_up('exits', lambda: [exits.get(config.exits.policy)])
  if config.lesson.name in exits.LESSONS:  # the field itself tells of an unknown name
    look_up('lesson', lambda: [exits.LESSONS[config.lesson.name]])
  if config.environment.name in environments.REGISTRY:  # `environment_problems` tells of an unknown name
    look_up('environment', lambda: [environments.REGISTRY.find(config.environment.name)])
  if 'objective' in named:
    look_up('advantage', lambda: [objectives.get_advantage(advantage_name(config)).function])
  yield from problems
  for section, functions in named.items():
    yield from _option_problems(config, section, functions)
  if 'advantage' in named:
    yield from _critic_problems(config)
    if 'allocation' in named and 'reward' in named:
      yield from allocation_problems(config)
  if config.learner.importance != 'token' and not config.learner.importance_cap:
    yield (
      f'learner.importance = {config.learner.importance!r}: nothing has a weight while learner.importance_cap = 0.0; '
      'fix: learner.importance_cap = 2.0, say'
    )
  if config.learner.importance_cap and 'objective' in named and 'rwr' in objectives.parts(config.objective.name):
    yield (
      f'learner.importance_cap = {config.learner.importance_cap}: it scales advantages, and the weights of objective.name = '
      "'rwr' are not linear in them; fix: learner.importance_cap = 0.0"
    )
  if 'objective' in named and 0 < (dual := config.objective.get('dual_clip', 0.0)) <= 1:
    yield (
      f'objective.dual_clip = {dual}: tokens of negative advantage would have no gradient at a ratio of 1; fix: a number above '
      '1, such as 3.0, or 0.0 for none'
    )
  if config.learner.micro_batches > 1 and 'objective' in named and objectives.ranks(config.objective.name):
    yield (
      f'learner.micro_batches = {config.learner.micro_batches}: objective.name = {config.objective.name!r} ranks the tokens of '
      'a minibatch, which its parts cannot; fix: learner.micro_batches = 1 and more learner.minibatches'
    )
  for name in ('format', 'reasoning'):
    try:
      re.compile(config.reward[name])
    except re.error as error:
      yield f'reward.{name} = {config.reward[name]!r}: no regular expression ({error}); fix: one of the module re'
  if 'reward' in named and 'correct' in rewards.names(config.reward.name):
    low, high = (config.reward.get(name, p.default) for name, p in registry.options(rewards.correct).items())
    if low >= high:
      yield f'reward.low = {low} is not below reward.high = {high}; fix: lower reward.low'


def _option_problems(config: ml_collections.ConfigDict, section: str, functions: list[Callable[..., Any]]) -> Iterator[str]:
  known = {name: (function, p) for function in functions for name, p in registry.options(function).items()}
  for name, value in method_options(config, section).items():
    field = f'{section}.{name} = {value!r}'
    if name not in known:
      named = ' + '.join(repr(function.__name__) for function in functions)
      elsewhere = [other for other, function in _registered(section).items() if name in registry.options(function)]
      hint = f'it is one of {", ".join(elsewhere)}' if elsewhere else near_field(name, known)
      yield f'{field}: no option of {named}; {hint}'
      continue
    function, parameter = known[name]
    annotation = typing.get_type_hints(function, include_extras=True).get(name)
    kinds = typing.get_args(annotation) if typing.get_origin(annotation) is typing.Literal else ()
    if kinds and value not in kinds:
      yield f'{field}: unknown; fix: one of {", ".join(map(repr, kinds))}'
    elif type(value) is not type(parameter.default):
      wanted = type(parameter.default).__name__
      yield f'{field}: {type(value).__name__} instead of {wanted}; fix: a value such as {parameter.default!r}'
    elif isinstance(value, float) and not math.isfinite(value):
      yield f'{field}: not a finite number; fix: a finite one'
    elif registry.ABOVE_0 in typing.get_args(annotation) and value <= 0:
      yield f'{field}: out of range; fix: a number above 0, such as {parameter.default!r}'
    elif section != 'reward' and isinstance(value, int | float) and value < 0:
      yield f'{field}: out of range; fix: a number of at least 0'
    elif section == 'advantage' and not isinstance(value, bool) and value > 1:
      yield f'{field}: out of range; fix: a number in [0, 1]'


def _registered(section: str) -> Mapping[str, Callable[..., Any]]:
  if section == 'reward':
    return rewards.REGISTRY
  if section == 'exits':
    return exits.REGISTRY
  if section == 'lesson':
    return exits.LESSONS
  if section == 'allocation':
    return tasks.ALLOCATORS
  table = objectives.REGISTRY if section == 'objective' else objectives.ADVANTAGES
  return {name: entry.function for name, entry in table.items()}


def _advantage_problems(config: ml_collections.ConfigDict, advantage: str) -> Iterator[str]:
  stops_rows = not {*config.baselines, config.stop.name} <= {'never'}
  if advantage in ('gdpo', 'maxrl') and config.reward.kl_coef:
    yield (
      f'reward.kl_coef = {config.reward.kl_coef}: advantage.name = {advantage!r} reads the reward without a divergence; '
      "fix: reward.kl_coef = 0.0, and objective.name = 'grpo + kl_k3'"
    )
  if advantage == 'maxrl' and stops_rows and config.stop.returns == 'fail' and config.stop.fail_reward < 0:
    yield (
      f"stop.fail_reward = {config.stop.fail_reward}: advantage.name = 'maxrl' divides by a group's mean score, so none may be "
      "below 0; fix: stop.returns = 'zero'"
    )
  if advantage == 'maxrl' and config.reward.get('low', 0.0) < 0:
    yield (
      f"reward.low = {config.reward.low}: advantage.name = 'maxrl' divides by a group's mean score, so none may be below 0; "
      'fix: reward.low = 0.0'
    )


def _row_problems(config: ml_collections.ConfigDict, advantage: str) -> Iterator[str]:
  """Yields why a config cannot leave rows out of its advantage."""
  a, function = config.advantage, objectives.ADVANTAGES[advantage].function
  if a.rows and objectives.ADVANTAGES[advantage].critic:
    yield (
      f'advantage.rows = {a.rows}: rows are chosen by their scores within a group, and advantage.name = {advantage!r} reads a '
      "critic; fix: advantage.rows = 0, or objective.name = 'grpo'"
    )
  elif a.rows == 1 or a.rows > config.rollout.samples:
    yield f'advantage.rows = {a.rows}: out of range; fix: 2 to rollout.samples = {config.rollout.samples}, or 0 for all rows'
  drops = a.rows or config.stop.returns == 'drop'
  if a.baseline == 'all' and (not drops or objectives.ADVANTAGES[advantage].critic):
    yield "advantage.baseline = 'all': no group has rows that are left out; fix: advantage.baseline = 'kept'"
  if a.baseline == 'all' and a.rows and config.reward.kl_coef:
    yield (
      f"reward.kl_coef = {config.reward.kl_coef}: with advantage.baseline = 'all' the divergence of rows that are not trained "
      'on is not known; fix: reward.kl_coef = 0.0'
    )
  if drops and a.baseline == 'kept' and not objectives.ADVANTAGES[advantage].critic and 'keep' not in registry.inputs(function):
    yield (
      f"advantage.name = {advantage!r}: it has no parameter 'keep', the rows of a group that are trained on; "
      "fix: add it, or advantage.baseline = 'all'"
    )


def _critic_problems(config: ml_collections.ConfigDict) -> Iterator[str]:
  objective, advantage = config.objective.name, advantage_name(config)
  wants = objectives.ADVANTAGES[objectives.default_advantage(objective)].critic
  has = objectives.ADVANTAGES[advantage].critic
  fitting = ', '.join(repr(name) for name, entry in objectives.ADVANTAGES.items() if entry.critic == wants)
  if has and not wants:
    yield f'advantage.name = {advantage!r}: objective.name = {objective!r} trains no critic; fix: one of {fitting}'
  if wants and not has:
    yield f'advantage.name = {advantage!r}: objective.name = {objective!r} trains a critic; fix: {fitting}, or grpo'
  yield from _advantage_problems(config, advantage)
  yield from _row_problems(config, advantage)
  if not has and config.rollout.samples < 2:
    yield (
      f'rollout.samples = {config.rollout.samples}: advantage.name = {advantage!r} compares the samples of a prompt; '
      'fix: --config.rollout.samples=4, say'
    )
  if not has and 'value_only' in {*config.baselines, config.stop.name}:
    field = 'stop.name' if config.stop.name == 'value_only' else 'baselines'
    yield (
      f"{field} = {config[field] if field == 'baselines' else config.stop.name!r}: the rule 'value_only' asks a critic, and "
      f'objective.name = {objective!r} trains none; fix: leave it out, or objective.name = ppo'
    )

"""Checks `rollout.serial` against the other fields. `make_serial` checks its texts, because that needs the tokenizer."""

from collections.abc import Iterator

import ml_collections

from espo_jax import objectives
from espo_jax.configs.methods import advantage_name


def serial_problems(config: ml_collections.ConfigDict) -> Iterator[str]:
  """Yields the settings that cannot be combined with the early answers of `rollout.serial`."""
  serial, samples = config.rollout.serial, config.rollout.samples
  if not serial.inducer:
    if serial.end_of_thinking:
      yield (
        f"rollout.serial.end_of_thinking = {serial.end_of_thinking!r} with rollout.serial.inducer = '': nothing is cut; "
        'fix: an inducer, or leave it out'
      )
    return
  where = f'rollout.serial.inducer = {serial.inducer!r}'
  if samples < 2:
    yield (
      f'rollout.samples = {samples} with {where}: a group is a full response and the answers at its cuts; '
      'fix: --config.rollout.samples=5, say'
    )
  if serial.answer_tokens >= config.rollout.horizon:
    yield (
      f'rollout.serial.answer_tokens = {serial.answer_tokens} leaves nothing of rollout.horizon = {config.rollout.horizon} for '
      f'thinking and the inducer; fix: rollout.horizon > {serial.answer_tokens}'
    )
  for field, rules in (('stop.name', (config.stop.name,)), ('baselines', tuple(config.baselines))):
    if acting := [rule for rule in rules if rule != 'never']:
      yield (
        f'{field} = {config.stop.name if field == "stop.name" else config.baselines!r} with {where}: the rule {acting[0]!r} '
        "would end the response that is to be cut; fix: stop.name = 'never' and baselines = ()"
      )
  if config.exits.every:
    yield (
      f'exits.every = {config.exits.every} with {where}: what is copied from a response was read at depths of its own; '
      'fix: exits.every = 0'
    )
  if config.rollout.record:
    yield (
      f'rollout.record = {config.rollout.record} with {where}: a stop rule would be replayed on answers at cuts; '
      'fix: rollout.record = 0'
    )
  try:
    advantage = objectives.get_advantage(advantage_name(config))
  except ValueError:
    return  # `method_problems` reports unknown names
  if advantage.critic:
    yield (
      f'advantage.name = {advantage_name(config)!r} with {where}: early exits are compared with each other, not with a critic; '
      "fix: objective.name = 'grpo' and advantage.name = 'mean_only'"
    )

"""Checks the constants of stop rules, and what a stopped row returns."""

from collections.abc import Collection, Iterator

import ml_collections

from espo_jax import registry, rewards, stops, tasks
from espo_jax.configs.allocation import is_ragged, readers_of_groups
from espo_jax.configs.fields import get_field
from espo_jax.configs.methods import max_draws, method_problems, trains_critic

_SCALED = ('regret_only', 'value_only', 'risk_control', 'mean_logprob', 'deepconf', 'latent_trajectory', 'hazard_head')
_PRICED = ('own_price', 'wald')  # the rules that weigh success against tokens
_JUDGING = ('arrol', 'arrol_signed')  # the rules that judge a row once
_WITH_HEAD = (*_PRICED, *_JUDGING, 'dead_groups', 'hazard_head')
_COUNTING = {'risk_control': 'counts right answers that were lost', 'makespan_gate': 'counts rows that would be right'}
_UNJUDGED = {'mean_logprob': 0.0, 'hazard_head': 0.0, 'deepconf': -100.0}  # the score of a row that a rule does not judge yet
_LEAST_SHARE = 0.05  # of the stopped rows that go on under 'roulette'


def stop_problems(config: ml_collections.ConfigDict) -> Iterator[str]:
  """Yields why a stop rule cannot act, or why what a stopped row returns makes no sense."""
  s, arms = config.stop, {*config.baselines, config.stop.name}
  yield from _returns(config)
  if arms <= {'never'}:
    return
  for rule in sorted(arms & set(stops.REGISTRY)):
    if stops.REGISTRY[rule]().probing is not None:
      yield (
        f'the rule {rule!r} asks the policy for answers on the way, whose tokens are not of the policy that is trained; '
        f'fix: another rule, and espo_jax.evaluate --stop={rule} for this one'
      )
  fields = {'espo': 'stop'} | {rule: f'stop.{rule}' for rule in (*_SCALED, *_PRICED)}
  for arm, field in fields.items():
    own = get_field(config, field)
    if arm in arms and not own.beta_min <= own.beta_0 <= own.beta_max:
      yield (
        f'{field}.beta_0 = {own.beta_0} is outside [{field}.beta_min, {field}.beta_max] = [{own.beta_min}, {own.beta_max}]; '
        'fix: inside'
      )
  if 'espo' in arms and s.epsilon > 0:
    yield from _can_fire(config, 'espo', s, s.epsilon, 'stop.beta_0 * stop.epsilon')
  for rule, least in _UNJUDGED.items():
    if rule in arms and s[rule].beta_min < least:
      yield (
        f'stop.{rule}.beta_min = {s[rule].beta_min}: below {least:g} the rule {rule!r} would stop rows that it does not judge '
        f'yet; fix: at least {least:g}'
      )
  for rule in sorted({'risk_control', 'makespan_gate'} & arms):
    yield from _reachable(config, rule)
  if 'risk_control' in arms and s.risk_control.beta_min <= 0:
    yield f'stop.risk_control.beta_min = {s.risk_control.beta_min}: out of range; fix: a number above 0'
  gate = s.makespan_gate
  if 'makespan_gate' in arms and gate.beta_min >= gate.beta_max:
    yield (
      f'stop.makespan_gate.beta_min = {gate.beta_min}: no threshold lies below stop.makespan_gate.beta_max = {gate.beta_max}; '
      'fix: a lower one'
    )
  if s.shadow_share == 0:
    yield from _needs_shadow_rows(config, arms)
  for rule in set(_PRICED) & arms:
    yield from _priced(config, rule)
  for rule in set(_JUDGING) & arms:
    yield from _judging(config, rule)
  if 'duet_settled' in arms:
    yield from _settled(config)
  if 'candidate_answer' in arms:
    yield from _settling(config, 'candidate_answer', "the text that ends an answer, such as the tokenizer's for '</answer>'")
  if 'duet_abort' in arms and s.duet_abort.grace >= config.rollout.horizon:
    yield (
      f"stop.duet_abort.grace = {s.duet_abort.grace}: the rule 'duet_abort' can never fire within rollout.horizon = "
      f'{config.rollout.horizon}; fix: fewer tokens'
    )
  if 'dead_groups' in arms:
    yield from _of_groups(config)
  if 'mean_logprob' in arms and s.least_tokens >= config.rollout.horizon:
    yield (
      f"stop.least_tokens = {s.least_tokens}: the rule 'mean_logprob' can never fire within rollout.horizon = "
      f'{config.rollout.horizon}; fix: fewer tokens'
    )
  if 'deepconf' in arms and s.window >= config.rollout.horizon:
    yield (
      f"stop.window = {s.window}: the rule 'deepconf' can never fire within rollout.horizon = {config.rollout.horizon}; "
      'fix: fewer tokens'
    )
  if 'latent_trajectory' in arms:
    yield from _on_segments(config)
  if 'regret_only' in arms:
    yield from _can_fire(config, 'regret_only', s.regret_only, 1.0, 'stop.regret_only.beta_0')
  lowest, level = min(config.reward.get('low', 0.0), s.fail_reward if s.returns == 'fail' else 0.0), s.value_only.beta_0
  if 'value_only' in arms and -level <= lowest:
    yield (
      f"stop.value_only.beta_0 = {level}: the rule 'value_only' can never fire, for it stops where V < -beta_0 = {-level} and "
      f'no reward is below {lowest}; fix: stop.value_only.beta_0 < {-lowest}, such as -0.2'
    )
  if 'random' in arms and s.name in ('random', 'never'):
    yield (
      f"stop.name = {s.name!r}: the arm 'random' stops as often as stop.name's arm does; "
      "fix: stop.name = 'espo' with 'random' among baselines"
    )


def _returns(config: ml_collections.ConfigDict) -> Iterator[str]:
  """Yields why what a stopped row returns does not fit the reward or the objective."""
  s, reward = config.stop, config.reward
  if s.returns not in ('head', 'value', 'roulette', 'drop', 'graded') or any(method_problems(config)):
    return  # wrong names leave open what the reward reads and whether there is a critic
  where = f'stop.returns = {s.returns!r}'
  if s.returns == 'graded':
    for rule in {*config.baselines, s.name} & {*_WITH_HEAD, *_COUNTING}:
      yield f'{where}: the rule {rule!r} learns from rows that go on after a stop, and graded rows do not; fix: another rule'
    return
  if s.returns == 'drop':
    if config.rollout.serial.inducer:
      yield f"{where}: a serial rollout cuts full responses, which must not be dropped; fix: stop.returns = 'zero'"
    for reader in readers_of_groups(config):
      yield f"{where}: {reader} would count a dropped row of its prompt as wrong; fix: stop.returns = 'zero'"
    return
  if s.returns == 'value' and trains_critic(config):
    return
  if s.returns in ('head', 'value'):  # without a critic the value is the share of right answers
    scale = reward.get('low', 0.0), reward.get('high', 1.0)
    if reward.name != 'correct' or scale != (0.0, 1.0):
      other = 'value' if trains_critic(config) else 'zero'
      yield (
        f'{where}: it pays a probability, and reward.name = {reward.name!r} pays from {scale[0]} to {scale[1]} or something '
        f"else; fix: reward.name = 'correct' with low = 0.0 and high = 1.0, or stop.returns = {other!r}"
      )
    return
  if not trains_critic(config):
    yield (
      f'{where}: objective.name = {config.objective.name!r} has no critic, whose value a cut row returns; '
      "fix: objective.name = 'ppo', or stop.returns = 'zero'"
    )
  if s.shadow_share < _LEAST_SHARE:
    yield (
      f'stop.shadow_share = {s.shadow_share}: under {where} a row that goes on weighs as much as 1 / shadow_share stopped '
      f'rows; fix: stop.shadow_share >= {_LEAST_SHARE}'
    )
  if max_draws(config) > 1:
    yield (
      f'rollout.max_draws = {max_draws(config)}: groups chosen by their scores bias {where}; fix: rollout.max_draws = 1, or '
      "stop.returns = 'zero'"
    )
  per_token = [name for name in rewards.names(reward.name) if {'mask', 'values'} & set(registry.inputs(rewards.REGISTRY[name]))]
  if per_token:
    yield (
      f'{where}: the reward {per_token[0]!r} pays single tokens by how the row ended, which a cut row does not know; '
      "fix: a reward per row, or stop.returns = 'zero'"
    )


def _priced(config: ml_collections.ConfigDict, rule: str) -> Iterator[str]:
  own = config.stop[rule]
  if own.beta_min < 0:
    yield f'stop.{rule}.beta_min = {own.beta_min}: below 0 a row would have to be better than a fresh one; fix: 0 or more'
  if not any(method_problems(config)) and not trains_critic(config):
    yield (
      f'the rule {rule!r} tells problems apart by the critic, and objective.name = {config.objective.name!r} trains none; '
      "fix: objective.name = 'ppo', or another rule"
    )
  if rule == 'wald' and config.stop.returns != 'head':
    yield (
      f"stop.returns = {config.stop.returns!r}: the rule 'wald' also ends rows that are sure to be right; "
      "fix: stop.returns = 'head'"
    )


def _ends_right_rows(config: ml_collections.ConfigDict, rule: str) -> Iterator[str]:
  """Yields why a rule that also ends rows which would be right must not fail them."""
  if config.stop.returns not in ('drop', 'head', 'value', 'roulette'):
    yield (
      f'stop.returns = {config.stop.returns!r}: the rule {rule!r} also ends rows that would be right; '
      "fix: stop.returns = 'drop'"
    )


def _judging(config: ml_collections.ConfigDict, rule: str) -> Iterator[str]:
  own = config.stop[rule]
  yield from _ends_right_rows(config, rule)
  if own.probe >= config.rollout.horizon:
    yield (
      f'stop.{rule}.probe = {own.probe}: the rule {rule!r} can never fire within rollout.horizon = {config.rollout.horizon}; '
      'fix: fewer tokens'
    )
  if not own.least_kept <= own.kept <= own.most_kept:
    yield (
      f'stop.{rule}.kept = {own.kept} is outside [stop.{rule}.least_kept, stop.{rule}.most_kept] = [{own.least_kept}, '
      f'{own.most_kept}]; fix: inside'
    )


def _on_segments(config: ml_collections.ConfigDict) -> Iterator[str]:
  own, horizon, size = config.stop.latent_trajectory, config.rollout.horizon, config.model.hidden_size
  if 2 * own.segment >= horizon:
    yield (
      f"stop.latent_trajectory.segment = {own.segment}: the rule 'latent_trajectory' can never fire within rollout.horizon = "
      f'{horizon}, because it needs two segments; fix: fewer tokens'
    )
  if not own.net and not own.cumulative and not own.aligned:
    yield 'stop.latent_trajectory: the weights net, cumulative and aligned are all 0; fix: a weight, such as aligned = 1.0'
  if not config.model.path and own.directions > size:
    yield f'stop.latent_trajectory.directions = {own.directions}: a state has {size} numbers; fix: at most {size}'


def _settling(config: ml_collections.ConfigDict, rule: str, text: str) -> Iterator[str]:
  """Yields why a rule that waits for a marker and then grades the row cannot act."""
  marker = config.stop[rule].marker
  if not marker or not all(isinstance(token, int) for token in marker):
    yield f'stop.{rule}.marker = {marker!r}: the rule {rule!r} waits for these token ids; fix: those of {text}'
  if config.stop.returns != 'graded':
    yield (
      f'stop.returns = {config.stop.returns!r}: the rule {rule!r} ends rows that have their answer; '
      "fix: stop.returns = 'graded'"
    )


def _settled(config: ml_collections.ConfigDict) -> Iterator[str]:
  own, horizon = config.stop.duet_settled, config.rollout.horizon
  yield from _settling(config, 'duet_settled', "the text before an answer, such as the tokenizer's for '####'")
  if own.look_from + own.streak > horizon:
    yield (
      f"stop.duet_settled.look_from = {own.look_from}: the rule 'duet_settled' can never fire within rollout.horizon = "
      f'{horizon}; fix: fewer tokens'
    )


def _of_groups(config: ml_collections.ConfigDict) -> Iterator[str]:
  own, inducer = config.stop.dead_groups, config.rollout.serial.inducer
  yield from _ends_right_rows(config, 'dead_groups')
  if own.group_tokens >= config.rollout.horizon:
    yield (
      f"stop.dead_groups.group_tokens = {own.group_tokens}: the rule 'dead_groups' can never fire within rollout.horizon = "
      f'{config.rollout.horizon}; fix: fewer tokens'
    )
  if config.rollout.samples < 2:
    yield f"rollout.samples = {config.rollout.samples}: the rule 'dead_groups' ends groups; fix: rollout.samples = 4, say"
  if inducer:
    yield (
      f"rollout.serial.inducer = {inducer!r}: the rule 'dead_groups' ends all rows of a prompt, of which a serial rollout cuts "
      "one; fix: rollout.serial.inducer = ''"
    )
  allocator = config.allocation.name
  if allocator in tasks.ALLOCATORS and is_ragged(config):
    yield f"allocation.name = {allocator!r}: the rule 'dead_groups' judges all rows of a prompt; fix: another allocator"


def _needs_shadow_rows(config: ml_collections.ConfigDict, arms: Collection[str]) -> Iterator[str]:
  learning = _COUNTING | dict.fromkeys(_WITH_HEAD, 'fits a head')
  reasons = [f'the rule {arm!r} {what}' for arm, what in learning.items() if arm in arms]
  if config.stop.returns == 'head':
    reasons.append("stop.returns = 'head' fits a head")
  for reason in reasons:
    yield (
      f'stop.shadow_share = 0.0: {reason}, and only rows that go on after a stop show what stopped rows would have become; '
      'fix: stop.shadow_share = 0.05, say'
    )


def users_rule_problems(config: ml_collections.ConfigDict) -> Iterator[str]:
  """Yields which options of users' stop rules have a value of another type than their default."""
  for rule in {*config.baselines, config.stop.name} & set(stops.REGISTRY):
    defaults = registry.defaults(stops.REGISTRY[rule]) if stops.is_users(rule) else {}
    for option, value in config.stop.get(rule, {}).items() if defaults else ():
      if option in defaults and type(value) is not type(defaults[option]):
        wanted = type(defaults[option]).__name__
        fix = f'fix: a value such as {defaults[option]!r}'
        yield f'stop.{rule}.{option} = {value!r}: {type(value).__name__} instead of {wanted}; {fix}'


def _reach(config: ml_collections.ConfigDict) -> float:
  """Returns the largest value that the statistic z can have at the horizon."""
  s, horizon = config.stop, config.rollout.horizon
  return float(s.clip * (1 - s.smoothing**horizon) if 0 <= s.smoothing < 1 and horizon > 0 else s.clip)


def _reachable(config: ml_collections.ConfigDict, rule: str) -> Iterator[str]:
  """Yields why a rule that chooses its threshold from `beta_min` on can never fire."""
  least, reach = config.stop[rule].beta_min, _reach(config)
  if reach <= least:
    yield (
      f'stop.{rule}.beta_min = {least}: the rule {rule!r} can never fire, for z is at most {reach:.3g} within '
      f'rollout.horizon = {config.rollout.horizon}; fix: a lower one, less stop.smoothing, or a larger stop.clip'
    )


def _can_fire(
  config: ml_collections.ConfigDict, arm: str, own: ml_collections.ConfigDict, scale: float, symbol: str
) -> Iterator[str]:
  """Yields why a rule can never fire.

  The statistic z is at most `clip (1 - smoothing^t)` after t tokens. The threshold is at least `beta * scale`.
  """
  s, horizon = config.stop, config.rollout.horizon
  least, first = own.beta_min * scale, own.beta_0 * scale
  field = symbol.partition('_0')[0].removesuffix('.beta')
  reach = _reach(config)
  never = f'the rule {arm!r} can never fire'
  epsilon = f', stop.epsilon = {s.epsilon}' if arm == 'espo' else ''
  if s.clip <= least:
    yield (
      f'stop.clip = {s.clip}: {never}, for z is at most stop.clip and the threshold at least {symbol.replace("_0", "_min")} = '
      f'{least:g} whatever the controller does ({field}.beta_min = {own.beta_min}{epsilon}); '
      f'fix: {field}.beta_min = 0, or stop.clip > {max(least, first):g}'
    )
  elif s.clip <= first:
    yield (
      f'stop.clip = {s.clip}: {never}, for z is at most stop.clip and the threshold starts at {symbol} = {first:g} or above '
      f'({field}.beta_0 = {own.beta_0}{epsilon}); fix: stop.clip > {first:g}, or {field}.beta_0 < {s.clip / scale:g}'
    )
  elif reach <= first:
    yield (
      f'stop.smoothing = {s.smoothing}: {never}, for z starts at 0, is at most {reach:.3g} after '
      f'rollout.horizon = {horizon} tokens, and the threshold starts at {symbol} = {first:g} or above; fix: less smoothing'
    )

"""Checks that the exits which a config asks for can act."""

import math
from collections.abc import Iterator

import ml_collections

from espo_jax import exits
from espo_jax.configs.methods import method_options
from espo_jax.exits.policy import certain
from espo_jax.model.config import exit_blocks
from espo_jax.registry import inputs


def exit_problems(config: ml_collections.ConfigDict) -> Iterator[str]:
  """Yields what is wrong with a config's exits, apart from the options of the exit policy."""
  x, calibrated = config.exits, 'calibration' in config.stages
  yield from _lesson_problems(config)
  if not x.every:
    if calibrated:
      yield f"stages = {tuple(config.stages)}: 'calibration' is of exits, and exits.every = 0 has none; fix: exits.every = 2"
    if x.alone:
      yield 'exits.alone = True with exits.every = 0: there are no exits to train; fix: exits.every = 2, or exits.alone = False'
    return
  if x.policy not in exits.REGISTRY:
    return  # `method_problems` reports it
  try:
    policy = exits.get(x.policy)(**method_options(config, 'exits'))
  except TypeError:
    return  # `method_problems` reports this too
  if policy.schedule is not None and policy.kv_fill == 'monotone' and config.rollout.slots:
    yield (
      f'exits.policy = {x.policy!r} with rollout.slots = {config.rollout.slots}: all rows of the batch have one depth, so they '
      'have to begin together; fix: rollout.slots = 0'
    )
  most = math.inf if config.model.path else config.model.num_layers  # that of a model on disk is not in the config
  if policy.hazard is None and policy.schedule is not None and not 0 <= policy.level <= most:
    yield f'exits.level = {policy.level}: blocks of model.num_layers = {config.model.num_layers}; fix: a number among them'
  elif policy.schedule is None and not 0 < policy.level < 1:
    yield f'exits.level = {policy.level}: out of range for exits.policy = {x.policy!r}; fix: a number in (0, 1)'
  if policy.bottom > policy.level:
    yield f'exits.bottom = {policy.bottom} is above exits.level = {policy.level}, which run in all; fix: a lower one'
  if not config.model.path and policy.earliest + policy.top >= config.model.num_layers:
    yield (
      f'exits.first = {policy.earliest} and exits.last = {policy.top} leave none of model.num_layers = '
      f'{config.model.num_layers} to skip; fix: lower ones'
    )
  if x.policy == 'specee':
    yield from _candidate_problems(config, "exits.policy = 'specee'")
  yield from _network_problems(config, policy)
  if calibrated and config.calibration.repair_steps:
    yield from _repair_problems(config, policy)
  if bad := [level for level in config.calibration.levels if not 0 < level < 1]:
    yield f'calibration.levels: {bad[0]} is no threshold; fix: numbers in (0, 1)'


def _repair_problems(config: ml_collections.ConfigDict, policy: exits.ExitPolicy) -> Iterator[str]:
  """Yields what rules out the repair behind routers."""
  steps, field = config.calibration.steps, f'calibration.repair_steps = {config.calibration.repair_steps}'
  if policy.router is None:
    yield f"{field} with exits.policy = {config.exits.policy!r}: no router fixes a route; fix: exits.policy = 'first_router'"
  if config.exits.alone:
    yield f'{field} with exits.alone = True: nothing may learn the routes; fix: exits.alone = False'
  if config.calibration.repair_steps >= steps:
    yield f'{field}: none of calibration.steps = {steps} is left to the routers; fix: fewer'


def _network_problems(config: ml_collections.ConfigDict, policy: exits.ExitPolicy) -> Iterator[str]:
  """Yields which networks of exits do not go with the policy, or are not trained for it."""
  x, of, lesson = config.exits, f'exits.policy = {config.exits.policy!r}', f'lesson.name = {config.lesson.name!r}'
  scores = "exits.kind = 'statistics' with {}: scoring drawn exits would hold the logits of every token at every exit; fix: {}"
  if x.kind == 'statistics' and policy.choice is not certain:
    yield scores.format(of, "exits.policy = 'jei_gates'")
  if x.kind == 'statistics' and 'calibration' in config.stages and not config.lesson.name:
    yield scores.format("lesson.name = ''", "lesson.name = 'jei_gates'")
  if x.translator != 'none' and not policy.leaves:
    yield f"exits.translator = {x.translator!r} with {of}: no token leaves at an exit; fix: exits.translator = 'none'"
  if policy.router is not None and x.kind not in ('linear', 'mlp'):
    yield f"exits.kind = {x.kind!r} with {of}: a router reads the prompt's mean stream; fix: exits.kind = 'linear' or 'mlp'"
  if policy.router is not None and config.lesson.name:
    yield f"{lesson} with {of}: routers have a training of their own; fix: lesson.name = ''"
  if policy.gated and config.lesson.name in exits.LESSONS and 'gates' not in inputs(exits.LESSONS[config.lesson.name]):
    yield f"{lesson} with {of}, whose gates it does not train; fix: a policy that reads none, as exits.policy = 'confidence'"


def _candidate_problems(config: ml_collections.ConfigDict, of: str) -> Iterator[str]:
  """Yields what keeps exits from reading candidates, where a policy or a lesson needs them."""
  x = config.exits
  if x.kind != 'candidates':
    yield f"{of} with exits.kind = {x.kind!r}: its predictors read candidate tokens; fix: exits.kind = 'candidates'"
  if not config.model.path and x.every and len(exit_blocks(x.every, x.first_block, config.model.num_layers)) < 2:
    yield (
      f'{of} with exits.every = {x.every} and exits.first_block = {x.first_block} among model.num_layers = '
      f'{config.model.num_layers}: the first exit proposes candidates, and none is behind it; fix: lower ones'
    )


def _lesson_problems(config: ml_collections.ConfigDict) -> Iterator[str]:
  name, x = config.lesson.name, config.exits
  field = f'lesson.name = {name!r}'
  if name and not x.alone:
    yield f'{field} with exits.alone = False: a lesson trains the exits of a frozen model; fix: exits.alone = True'
  if name and 'calibration' not in config.stages:
    yield f"{field}: no calibration among stages = {tuple(config.stages)}; fix: stages with it, or lesson.name = ''"
  if name == 'jei_gates' and (x.kind != 'statistics' or x.translator == 'none'):
    yield (
      f'{field} with exits.kind = {x.kind!r} and exits.translator = {x.translator!r}: its gates read how sure an exit is, and '
      "its classifiers are translators; fix: exits.kind = 'statistics' and exits.translator = 'token'"
    )
  if name == 'lgvit_distill' and x.translator == 'none':
    yield f"{field} with exits.translator = 'none': it trains translators; fix: exits.translator = 'local_global'"
  if name == 'specee':
    yield from _candidate_problems(config, field)


def draft_problems(config: ml_collections.ConfigDict) -> Iterator[str]:
  """Yields what rules out a self-speculative evaluation."""
  blocks = config.eval.draft_blocks
  if not blocks:
    return
  field = f'eval.draft_blocks = {blocks}'
  if config.model.scan_layers or config.model.paged_kernels:
    yield f'{field}: drafting runs some of the blocks; fix: model.scan_layers = False and model.paged_kernels = False'
  if config.exits.every and config.exits.policy != 'never':
    yield f"{field} with exits.policy = {config.exits.policy!r}: drafts are verified at full depth; fix: exits.policy = 'never'"
  if any(size != 1 for size in config.mesh.to_dict().values()):
    yield f'{field} with mesh = {config.mesh.to_dict()}: drafting is for one device; fix: axes of 1'

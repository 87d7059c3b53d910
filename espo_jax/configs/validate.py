"""Checks a config before any device is touched. Each line of an error names a field, its value and the fix."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import ml_collections

from espo_jax.configs.data import data_problems, example_problems, task_problems
from espo_jax.configs.defaults import FIELDS, STAGES, default_config
from espo_jax.configs.environment import environment_problems
from espo_jax.configs.exits import draft_problems, exit_problems
from espo_jax.configs.fields import ConfigError, flatten, get_field, is_known, near_field
from espo_jax.configs.methods import method_problems, model_problems, warmup_updates
from espo_jax.configs.model import OVERRIDES, model_config
from espo_jax.configs.reuse import reuse_problems
from espo_jax.configs.serial import serial_problems
from espo_jax.configs.start import start_problems
from espo_jax.configs.stopping import stop_problems, users_rule_problems
from espo_jax.model import ModelConfig


def validate(config: ml_collections.ConfigDict, *, training: bool = True, data: bool = True) -> None:
  """Check that an experiment can run and that its stop rule can act.

  Args:
    config: The experiment.
    training: Whether the experiment is to be trained. An evaluation needs less: no stages, no stop rule and no train data.
    data: Whether the tokenizer and the data must exist.

  Raises:
    ConfigError: The config has problems. The error lists all of them.
  """
  values, expected = flatten(config), flatten(default_config())
  problems = [*_unknown(values, expected), *_mistyped(values, expected)]
  if all(
    type(values.get(field)) is type(default) for field, default in expected.items()
  ):  # else the checks below could not read the fields
    always = (field_problems, _model, _mesh, task_problems, draft_problems, environment_problems)
    for check in (*always, *((data_problems,) if data else ())):
      problems += check(config)
    trained = (_stages, stop_problems, users_rule_problems, _warmups, _rows, method_problems, exit_problems, serial_problems)
    for check in (*trained, reuse_problems, example_problems) if training else ():
      problems += check(config)
    problems += [] if training else model_problems(config)
    if training and not problems:  # else there may be no task that gives a tokenizer
      problems += start_problems(config)
  if problems:
    raise ConfigError([*dict.fromkeys(problems)])  # a task and its environment may share one


# ------------------------------------------------------------------------------------------------- fields and their values


def _unknown(values: Mapping[str, Any], expected: Mapping[str, Any]) -> Iterator[str]:
  for field, value in values.items():
    if not is_known(field, expected):
      yield f'{field} = {value!r}: no such field; {near_field(field, expected)}'
  for field in sorted(expected.keys() - values.keys()):
    yield f'{field} is missing; fix: start from espo_jax.configs.default_config()'


def _mistyped(values: Mapping[str, Any], expected: Mapping[str, Any]) -> Iterator[str]:
  for field, value in values.items():
    default = expected.get(field, value)
    if type(value) is not type(default):
      yield f'{field} = {value!r}: {type(value).__name__} instead of {type(default).__name__}; fix: a value such as {default!r}'
    # config.json writes an infinity as null, which is read back as the default: any other infinity would be lost.
    elif isinstance(value, float) and not math.isfinite(value) and value != expected.get(field):
      yield f'{field} = {value}: not a finite number; fix: a finite one'


def field_problems(config: ml_collections.ConfigDict) -> Iterator[str]:
  """Yields the fields whose value their declaration does not allow."""
  for name, field in FIELDS.items():
    if field.allowed is not None:
      yield from field.allowed.problems(name, get_field(config, name), config.stages)


# ----------------------------------------------------------------------------------------------- fields against each other


def _stages(config: ml_collections.ConfigDict) -> Iterator[str]:
  stages = tuple(config.stages)
  if not stages:
    yield f'stages = (): nothing to run; fix: some of {STAGES}, in this order'
  known = [stage for stage in stages if stage in STAGES]
  if known != [stage for stage in STAGES if stage in known]:
    yield f'stages = {stages}: out of order or named twice; fix: {tuple(stage for stage in STAGES if stage in known)}'
  if 'critic_warmup' in stages and 'rl' not in stages:
    yield f"stages = {stages}: the critic warm-up serves reinforcement learning alone; fix: add 'rl', or leave it out"


def _warmups(config: ml_collections.ConfigDict) -> Iterator[str]:
  w, updates = config.warm_start, config.learner.updates
  if 'warm_start' in config.stages and w.warmup_steps >= w.steps > 0:
    yield f'warm_start.warmup_steps = {w.warmup_steps} is not below warm_start.steps = {w.steps}; fix: lower it'
  if 'rl' not in config.stages or updates <= 0 or not math.isfinite(config.gate.force_at) or any(method_problems(config)):
    return  # wrong names leave open whether there is a critic
  if updates <= (warmup := warmup_updates(config)):
    yield (
      f'learner.updates = {updates}: none is left after a critic warm-up of up to {warmup} (gate.force_at = '
      f'{config.gate.force_at}); fix: learner.updates > {warmup} or a smaller gate.force_at'
    )


def _model(config: ml_collections.ConfigDict) -> Iterator[str]:
  if config.model.num_kv_heads <= 0:
    return
  try:
    # The vocabulary is that of the tokenizer, which is not read yet. Gates of candidates need at least as many tokens.
    shape = model_config(config, vocab_size=max(1, config.exits.candidates))
  except (TypeError, ValueError) as error:
    yield f'model.path = {config.model.path!r}: {error}' if config.model.path else str(error)
    return
  if config.model.path:
    defaults = default_config().model
    for name in set(defaults) - {'path', 'lora', *OVERRIDES}:
      if config.model[name] != defaults[name]:
        yield (
          f'model.{name} = {config.model[name]!r} beside model.path = {config.model.path!r}, whose config.json says the shape; '
          'fix: leave it out'
        )
  if config.eval.draft_blocks >= shape.num_layers > 0:
    told = f'none of the {shape.num_layers} blocks of the model is left to verify'
    yield f'eval.draft_blocks = {config.eval.draft_blocks}: {told}; fix: fewer, or 0 for no drafts'
  t, f = config.mesh.tensor, config.mesh.fsdp
  if shape.exit_blocks and shape.exits.memories and t != 1:
    yield (
      f'exits.kind = {shape.exits.kind!r} and exits.translator = {shape.exits.translator!r} with mesh.tensor = {t}: what exits '
      'remember of tokens is not split over heads; fix: mesh.tensor = 1'
    )
  yield from split_problems(shape, t, f, vocabulary=bool(config.model.path))


def split_problems(shape: ModelConfig, tensor: int, fsdp: int, *, vocabulary: bool) -> Iterator[str]:
  """Yields the sizes of a model that do not divide by those of the mesh axes that split them.

  Args:
    shape: The shape of the decoder.
    tensor: The size of the mesh axis `tensor`; -1 if it is not known yet.
    fsdp: The size of the mesh axis `fsdp`; -1 if it is not known yet.
    vocabulary: Whether the shape has the vocabulary of the tokenizer.
  """
  split = [
    ('num_heads', 'tensor', tensor),
    ('num_kv_heads', 'tensor', tensor),
    ('intermediate_size', 'tensor', tensor),
    ('hidden_size', 'fsdp', fsdp),
  ]
  for name, axis, size in split + ([('vocab_size', 'tensor', tensor)] if vocabulary else []):
    if size > 1 and getattr(shape, name) % size:
      yield f'model.{name} = {getattr(shape, name)} does not divide by mesh.{axis} = {size}; fix: a smaller mesh.{axis}'


def _mesh(config: ml_collections.ConfigDict) -> Iterator[str]:
  sizes = config.mesh.to_dict()
  if any(size == 0 or size < -1 for size in sizes.values()) or list(sizes.values()).count(-1) > 1:
    yield f'mesh = {sizes}: axes are positive, and one may be -1 (what is left); fix: mesh.data = -1 and 1 for the others'
  if config.rollout.gather_weights and config.mesh.fsdp == 1:
    yield 'rollout.gather_weights = True with mesh.fsdp = 1: no weight is split over fsdp; fix: rollout.gather_weights = False'
  if config.model.paged_kernels and any(size != 1 for size in sizes.values()):
    yield f'model.paged_kernels = True with mesh = {sizes}: the kernels run on one device; fix: model.paged_kernels = False'


def _rows(config: ml_collections.ConfigDict) -> Iterator[str]:
  r, minibatches = config.rollout, config.learner.minibatches
  if config.critic.every > 1 and config.critic.kind != 'separate':
    yield (
      f'critic.every = {config.critic.every} with critic.kind = {config.critic.kind!r}: a value head reads every token; '
      "fix: critic.every = 1, or critic.kind = 'separate'"
    )
  rows = r.prompts * r.samples
  if minibatches > 0 and rows % minibatches:
    yield (
      f'learner.minibatches = {minibatches} does not divide the {rows} rows of a rollout (rollout.prompts = {r.prompts} times '
      f'rollout.samples = {r.samples}); fix: a divisor of {rows}'
    )
  elif minibatches > 0 and config.learner.whole_groups and r.prompts % minibatches:
    yield (
      f'learner.minibatches = {minibatches} does not divide rollout.prompts = {r.prompts}, which learner.whole_groups = True '
      f'needs; fix: a divisor of {r.prompts}, or learner.whole_groups = False'
    )
  elif minibatches > 0 < config.learner.micro_batches and rows // minibatches % config.learner.micro_batches:
    yield (
      f'learner.micro_batches = {config.learner.micro_batches} does not divide the {rows // minibatches} rows of a minibatch; '
      f'fix: a divisor of {rows // minibatches}'
    )
  for name, whole in (('top_p', 1.0), ('top_k', 0), ('min_p', 0.0)):
    if r[name] != whole:
      yield (
        f'rollout.{name} = {r[name]}: the learner scores the whole distribution, so that is what training samples; '
        f'fix: {whole}, and truncate in espo_jax.evaluate'
      )
  if r.parts > 0 and r.prompts % r.parts:
    yield f'rollout.parts = {r.parts} does not divide rollout.prompts = {r.prompts}; fix: a divisor of {r.prompts}'
  # An axis of -1 has at least one device.
  yield from row_problems(config, *(max(size, 1) for size in (config.mesh.data, config.mesh.fsdp)))


def row_problems(config: ml_collections.ConfigDict, data: int, fsdp: int) -> Iterator[str]:
  """Yields the numbers of rows that are not divisible by the number of devices that rows are split over.

  Args:
    config: The experiment.
    data: The size of the mesh axis `data`, used in place of the config's.
    fsdp: The size of the mesh axis `fsdp`, used in place of the config's.
  """
  r, minibatches, shards = config.rollout, config.learner.minibatches, data * fsdp
  rows = r.prompts * r.samples
  evaluated = min(('eval.batch', 'eval.problems'), key=lambda field: get_field(config, field))
  counts = {
    'rollout.prompts' if r.parts == 1 else 'rollout.prompts / rollout.parts': r.prompts // max(r.parts, 1),
    'rollout.slots': r.slots,
    'rows of a minibatch (rollout.prompts * rollout.samples / learner.minibatches)': rows // max(minibatches, 1),
    evaluated: get_field(config, evaluated),
  }
  if 'warm_start' in config.stages:
    counts['warm_start.batch'] = config.warm_start.batch
  if 'calibration' in config.stages:
    counts['calibration.prompts'] = config.calibration.prompts
  for name, count in counts.items():
    if count % shards:
      yield (
        f'{name} = {count} does not divide by mesh.data * mesh.fsdp = {data} * {fsdp}, over which rows '
        f'are split; fix: a multiple of {shards}, or a smaller mesh'
      )

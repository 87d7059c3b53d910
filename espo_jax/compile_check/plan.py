"""Plans the memory of a training before its first stage: the peak of each program, and changes with which all programs fit.

The programs are those that training calls later: they are lowered from the shapes, shardings and options of its own calls. So
with jax's persistent compilation cache each is compiled once. Training also compiles these:

| program | difference from the planned one |
|---|---|
| rollout of the critic warm-up and of other arms | another stop rule than `stop.name` |
| prepare and update of short responses | fewer packed sequences than rows of maximum length need (`learner.pack_sizes`) |
| prepare, with dynamic sampling on one device (`rollout.max_draws`) | the layout of rows from several rollouts |
| all programs, without a persistent cache | none |
"""

import collections
import copy
import dataclasses
from typing import Any, NamedTuple

import jax
import ml_collections

from espo_jax.compile_check.programs import Programs
from espo_jax.compile_check.verdict import on_device
from espo_jax.configs import ConfigError, check_devices, model_config, validate
from espo_jax.configs.memory import smaller
from espo_jax.experiment import Experiment, make_model
from espo_jax.stages.headline import written_size

SMALL = 0.01  # a state that takes less than this share of the memory is not checked
TRIES = 10  # the most suggestions that are compiled
_GAIN = 0.995  # a change is kept if the peak is below this share of the peak before it
_LORA = 'model.lora.rank'
_PHASES = {'rollout': 'rollout', 'turn': 'rollout', 'prepare': 'score', 'update': 'update'}
_CHANGED = {  # the programs that a field changes; other fields change all
  'rollout.slots': {'rollout'},
  'rollout.parts': {'rollout', 'turn'},
  'learner.micro_batches': {'prepare', 'update'},
  'learner.logit_chunk': {'prepare', 'update'},
  'model.remat': {'update'},
}


class Plan(NamedTuple):
  """The bytes that a training takes per device."""

  parameters: int
  moments: int  # those on the device
  peaks: dict[str, float]  # by program, with the arrays that training keeps meanwhile; inf if the compiler refuses the program
  limit: int  # the memory there is

  @property
  def worst(self) -> str:
    """The program with the highest peak."""
    return max(self.peaks, key=lambda name: self.peaks[name])

  @property
  def fits(self) -> bool:
    """Whether every program fits."""
    return self.peaks[self.worst] <= self.limit


class Fix(NamedTuple):
  """The result of a search for changes with which all programs fit."""

  changes: dict[str, Any]  # values by field
  name: str  # the program with the highest peak under the changes
  peak: float  # this peak, in bytes
  fits: bool  # whether all programs fit


class DoesNotFit(ConfigError):
  """A training that needs more memory than there is.

  Attributes:
    reason: What does not fit.
    fix: The changes, if some make it fit.
  """

  def __init__(self, plan: Plan, fix: Fix):
    self.fix = fix
    peak, there = _size(plan.peaks[plan.worst]), written_size(plan.limit)
    self.reason = f'memory: {plan.worst} takes {peak} at its peak and there are {there} per device'
    super().__init__([self.told()])

  def told(self, written: str = '--config.{}={}', between: str = ' ') -> str:
    """Returns the message.

    Args:
      written: The format in which a field and its value are written.
      between: The text between two of them.
    """
    flags = between.join(written.format(field, value) for field, value in self.fix.changes.items())
    if self.fix.fits:
      return f'{self.reason}; fix: {flags} (the highest peak is then {_size(self.fix.peak)}, of {self.fix.name})'
    closest = f'with {flags} {self.fix.name} still takes {_size(self.fix.peak)}' if flags else 'no field lowers it'
    more = f'a smaller model, or {written.format("mesh.fsdp", -1)} on more devices'
    return f'{self.reason}; nothing that was tried fits: {closest}; fix: {more}'

  def __str__(self) -> str:
    """Returns the message, which is one line."""
    return self.problems[0]


def check_memory(exp: Experiment, limit: int) -> Plan | None:
  """Checks that the programs of training fit.

  Args:
    exp: The experiment.
    limit: The memory per device, in bytes.

  Returns:
    The plan; None if nothing is checked, because there is no stage 'rl' or the state takes less than `SMALL` of the memory.

  Raises:
    DoesNotFit: A program does not fit. The error names changes with which all programs fit, if any were found.
  """
  if 'rl' not in exp.config.stages or sum(_state_bytes(_programs(exp))) < SMALL * limit:
    return None
  plan = make_plan(exp, limit)
  if not plan.fits:
    raise DoesNotFit(plan, find_fix(exp, plan))
  return plan


def make_plan(exp: Experiment, limit: int) -> Plan:
  """Compiles the programs of training and returns their peaks.

  Args:
    exp: The experiment.
    limit: The memory per device, in bytes.
  """
  programs = _programs(exp)
  return Plan(*_state_bytes(programs), {name: measure(programs, name) for name in programs.names}, limit)


def describe(plan: Plan) -> str:
  """Returns the plan in one line."""
  peaks = ', of '.join(f'{name} {_size(peak)}' for name, peak in plan.peaks.items())
  return (
    f'memory per device: parameters {written_size(plan.parameters)}, moments {written_size(plan.moments)}; '
    f'peak of {peaks}; there are {written_size(plan.limit)}'
  )


def measure(programs: Programs, name: str) -> float:
  """Compiles a program and returns its peak in bytes per device; inf if the compiler refuses it for its memory.

  The peak includes the arrays that training keeps meanwhile. With several arms these are also the parameters and moments after
  the critic warm-up, from which the next arm starts.
  """
  try:
    memory: Any = programs.compile(name).memory_analysis()  # some backends have none
  except jax.errors.JaxRuntimeError as error:
    if 'RESOURCE_EXHAUSTED' not in str(error):
      raise
    return float('inf')
  own = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes + memory.temp_size_in_bytes
  several = len({*programs.config.baselines, programs.config.stop.name}) > 1
  return own + on_device(programs.beside(name)) + (sum(_state_bytes(programs)) if several else 0)


def find_fix(exp: Experiment, plan: Plan, tries: int = TRIES) -> Fix:
  """Searches for changes with which all programs fit.

  The program with the highest peak is compiled with one suggestion after another. A suggestion is kept if it lowers the peak.
  The suggestions for a program take turns, and adapters come last, because they change what is trained.

  Args:
    exp: The experiment.
    plan: The plan, which does not fit.
    tries: The most suggestions that are compiled.
  """
  peaks, changes, now = dict(plan.peaks), dict[str, Any](), exp
  turns, useless = collections.Counter[tuple[str, str]](), set[tuple[str, str]]()
  while True:
    if all(peak <= plan.limit for peak in peaks.values()):
      unknown = [name for name in plan.peaks if name not in peaks]
      if not unknown:
        break
      peaks[unknown[0]] = measure(_programs(now), unknown[0])
      continue
    name = max(peaks, key=lambda name: peaks[name])
    suggested = {field: value for field, value in suggestions(now.config, name).items() if (name, field) not in useless}
    ordinary = sorted(suggested.keys() - {_LORA} if tries > 1 else [], key=lambda f: (turns[name, f], list(suggested).index(f)))
    field = next(iter(ordinary or suggested), None)
    if field is None or not tries:
      break
    turns[name, field] += 1
    try:
      changed = _changed(now, field, suggested[field])
    except ConfigError:  # the suggestion does not go with another field
      useless.add((name, field))
      continue
    peak = measure(_programs(changed), name)
    tries -= 1
    if peak < _GAIN * peaks[name]:
      now, changes[field] = changed, suggested[field]
      peaks = {other: old for other, old in peaks.items() if other not in _CHANGED.get(field, plan.peaks)} | {name: peak}
    else:
      useless.add((name, field))
  worst = max(peaks, key=lambda name: peaks[name])
  return Fix(changes, worst, peaks[worst], peaks[worst] <= plan.limit)


def suggestions(config: ml_collections.ConfigDict, name: str) -> dict[str, Any]:
  """Returns values by field with which a program may need less memory, in the order in which they are tried."""
  fields = smaller(config, _PHASES[name]) if name in _PHASES else {}
  fields = {'model.remat': fields['model.remat']} | fields if 'model.remat' in fields else fields  # often enough alone
  fields |= {} if config.model.scan_layers else {'model.scan_layers': True}
  fields |= {} if config.learner.offload_optimizer else {'learner.offload_optimizer': True}
  return fields | ({} if config.model.lora.rank else {_LORA: 16})


def _changed(exp: Experiment, field: str, value: Any) -> Experiment:
  """Returns the experiment with another value of a field.

  Raises:
    ConfigError: The experiment cannot run with it.
  """
  config = copy.deepcopy(exp.config)
  config.update_from_flattened_dict({field: value})
  validate(config)
  shape = model_config(config, exp.model.config.vocab_size)
  check_devices(config, shape, exp.mesh)
  return dataclasses.replace(exp, config=config, model=make_model(config, shape))


def _programs(exp: Experiment) -> Programs:
  return Programs(exp.config, exp.mesh, exp)


def _state_bytes(programs: Programs) -> tuple[int, int]:
  """Returns the bytes of parameters and moments on a device."""
  return on_device(programs.params), on_device(programs.state.opt_state)


def _size(peak: float) -> str:
  return 'more than the compiler accepts' if peak == float('inf') else written_size(peak)

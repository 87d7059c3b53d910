"""Derives the arguments of a task from a config, and checks the sections `task` and `data`."""

import datetime
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_collections

from espo_jax import tasks
from espo_jax.configs.fields import get_field, near_field
from espo_jax.configs.methods import method_options
from espo_jax.tasks.files import file_problem
from espo_jax.tasks.own import FIELDS, JSONL, find_benchmark
from espo_jax.tasks.pretrained import PROMPTS, tokenizer_problem
from espo_jax.tasks.sources import path_problem
from espo_jax.tasks.task import lookup

_NOT_OPTIONS = ('tokenizer_path', 'needs_solutions', 'test_problems', 'tags')  # other sections of the config set these
_ENVIRONMENT = 'environment_'  # how a task's parameter begins that an option of the environment sets
_POSITIVE = ('max_prompt_tokens', 'max_response_tokens', 'grade_workers', 'grade_deadline')  # options of tasks that ask a model


def task_arguments(config: ml_collections.ConfigDict) -> dict[str, Any]:
  """Collects the keyword arguments of the task.

  The task gets each value of the config that one of its parameters names. `task.options` overrides these values. A parameter
  such as `environment_load` gets an option of the environment, here `environment.load`.
  """
  environment = method_options(config, 'environment') if config.environment.name else {}
  offered = {
    **{f'{_ENVIRONMENT}{name}': value for name, value in environment.items()},
    **config.data.to_dict(),
    'seed': config.seed,
    'tokenizer_path': config.model.path,
    'needs_solutions': _writes_solutions(config),
    'test_problems': config.eval.problems,
    'tags': config.rollout.tags,
    'max_prompt_tokens': config.rollout.prompt_width,
    'max_response_tokens': config.rollout.horizon,
  }
  taken = _parameters(config.task.name)
  return {name: value for name, value in offered.items() if name in taken} | config.task.options.to_dict()


def writes_chats(config: ml_collections.ConfigDict) -> bool:
  """Returns whether prompts are written with the chat template of a pretrained model, which may write a date."""
  return bool(config.model.path) and config.task.name in tasks.TASKS and 'today' in _parameters(config.task.name)


def task_problems(config: ml_collections.ConfigDict) -> Iterator[str]:
  """Yields what is wrong with `task.options`, and with `rollout.prompt_width` and `rollout.horizon` for this task."""
  if config.task.name not in tasks.TASKS:
    return
  options, parameters = config.task.options.to_dict(), _parameters(config.task.name)
  of_others = {*config.data, *_NOT_OPTIONS}
  named = {name for name, p in parameters.items() if p.kind is not p.VAR_KEYWORD}
  known = {name for name in named - of_others if not name.startswith(_ENVIRONMENT)}
  unknown = options.keys() - known
  if named != parameters.keys():  # the task checks the names of its options itself
    unknown &= of_others
  for name in sorted(unknown):
    hint = near_field(name, known)
    yield f'task.options.{name} = {options[name]!r}: no option of the task {config.task.name!r}; {hint}'
  given = {name: value for name, value in task_arguments(config).items() if name not in unknown}
  if 'tokenizer_path' in parameters:
    problems = [*_option_problems({name: options[name] for name in known & options.keys()}, parameters)]
    yield from problems
    if problems:
      return
  if 'path' in parameters:  # the run reads the files later, because that may take long
    sizes = options
  else:
    try:
      task = tasks.TASKS[config.task.name](**given)
    except (TypeError, ValueError) as error:
      yield str(error) if str(error).startswith(('task.', 'environment.')) else f'task.options = {options}: {error}'
      return
    sizes = {name: getattr(task, name) for name in ('max_prompt_tokens', 'max_response_tokens')}
    if config.mesh.tensor > 1 and not config.model.path and (vocabulary := len(task.tokenizer())) % config.mesh.tensor:
      yield (
        f'mesh.tensor = {config.mesh.tensor} does not divide the {vocabulary} tokens of the vocabulary of the task '
        f'{config.task.name!r}; fix: a divisor'
      )
  for field, limit in (('rollout.prompt_width', 'max_prompt_tokens'), ('rollout.horizon', 'max_response_tokens')):
    width, needed = get_field(config, field), sizes.get(limit, 0)
    if isinstance(needed, int) and 0 < width < needed:
      of = f'{limit} = {needed} of the task {config.task.name!r}'
      yield f'{field} = {width} is less than {of}; fix: --config.{field}={needed}'


def data_problems(config: ml_collections.ConfigDict) -> Iterator[str]:
  """Yields what is wrong with `data`, and with `model.path` if the task poses its problems to a pretrained model.

  No row of the data is read.
  """
  if config.task.name not in tasks.TASKS:
    return
  d, task, parameters = config.data, config.task.name, _parameters(config.task.name)
  for name, value in d.items():
    if value and name != 'on_error' and name not in parameters:
      yield f'data.{name} = {value!r}: the task {task!r} reads no such data; fix: leave it empty, or another task.name'
  if 'today' in parameters and d.today and not _is_day(d.today):
    yield f'data.today = {d.today!r}: no day; fix: one such as 2026-01-31, or leave it empty for that of the first start'
  if 'tokenizer_path' in parameters:
    if config.model.path and (problem := tokenizer_problem(config.model.path)):
      yield problem
    elif not config.model.path and parameters['tokenizer_path'].default is inspect.Parameter.empty:
      fix = 'fix: --config.model.path=DIR, a Hugging Face directory'
      yield f"model.path = '': the task {task!r} asks a pretrained model; {fix}"
    elif not config.model.path and config.stages and 'warm_start' not in config.stages and not config.start_from:
      fix = "fix: --config.model.path=DIR, a Hugging Face directory, or 'warm_start' among stages"
      yield f"model.path = '': the task {task!r} would be trained from random weights; {fix}"
  if 'path' not in parameters:
    return
  yield from _own_problems(config)
  if d.eval_benchmark and not d.eval_path:
    yield f"data.eval_path = '': no place of data.eval_benchmark = {d.eval_benchmark!r}; fix: --config.data.eval_path=FILE"
  for prefix, split, name in (('', 'train', d.benchmark), ('eval_', 'test', d.eval_benchmark or d.benchmark)):
    yield from _source_problems(prefix, split, name, config)


def example_problems(config: ml_collections.ConfigDict) -> Iterator[str]:
  """Yields what is wrong with `warm_start.data`. No example is read."""
  path = config.warm_start.data
  if not path or 'warm_start' not in config.stages:
    return
  if not Path(path).is_file():
    yield f'warm_start.data = {path!r}: no such file; fix: a file of examples, which python -m espo_jax.sources writes'
  elif problem := file_problem(path):
    yield f'warm_start.data = {path!r}: {problem}'


def _writes_solutions(config: ml_collections.ConfigDict) -> bool:
  """Whether the warm start reads the task's written solutions."""
  return 'warm_start' in config.stages and not config.warm_start.data


def _asks_of_train(config: ml_collections.ConfigDict) -> bool:
  """Whether a stage asks problems of the train split. A warm start on examples asks none."""
  return any(stage != 'warm_start' or not config.warm_start.data for stage in config.stages)


def _own_problems(config: ml_collections.ConfigDict) -> Iterator[str]:
  """Yields what is wrong with the field names that the user gives for data of their own."""
  d = config.data
  reader = next((name for name in ('data.benchmark', 'data.eval_benchmark') if d[name.removeprefix('data.')] == JSONL), '')
  if reader:
    for field, what in zip(FIELDS[:2], ('problem', 'final answer'), strict=True):
      if not d[field]:
        yield f"data.{field} = '': with {reader} = {JSONL!r} a field holds the {what}; fix: --config.data.{field}=NAME"
  elif config.stages:  # an evaluation may use another benchmark than its run did
    for field in FIELDS:
      if d[field]:
        yield (
          f'data.{field} = {d[field]!r}: only data.benchmark = {JSONL!r} reads fields by name, and it is {d.benchmark!r}; '
          f'fix: --config.data.benchmark={JSONL}, or leave data.{field} empty'
        )


def _source_problems(prefix: str, split: str, name: str, config: ml_collections.ConfigDict) -> Iterator[str]:
  path = config.data[f'{prefix}path']
  if not path and (prefix or (config.data.eval_path and not _asks_of_train(config))):
    return
  if not path:
    yield f"data.path = '': the task {config.task.name!r} reads its problems from a file; fix: --config.data.path=FILE"
  try:
    benchmark = find_benchmark(name, **{field: config.data[field] for field in FIELDS})
  except ValueError as error:
    if not prefix or config.data.eval_benchmark:
      yield f'data.{prefix}benchmark = {name!r}: {error}; fix: --config.data.{prefix}benchmark=gsm8k, for example'
    return
  if path and (problem := path_problem(benchmark, path, split)):
    yield f'data.{prefix}path = {problem}'
  if split == 'train' and _writes_solutions(config) and not benchmark.has_solutions:
    rest = tuple(stage for stage in config.stages if stage != 'warm_start')
    fix = f'stages = {rest}' + (', or --config.data.solution_field=NAME' if name == JSONL else '')
    yield f'stages = {config.stages}: data.benchmark = {name!r} has no written solutions to start from; fix: {fix}'


def _option_problems(options: dict[str, Any], parameters: dict[str, inspect.Parameter]) -> Iterator[str]:
  for name, value in options.items():
    field, default = f'task.options.{name} = {value!r}', parameters[name].default
    if default not in (None, inspect.Parameter.empty) and type(value) is not type(default):
      yield f'{field}: {type(value).__name__} instead of {type(default).__name__}; fix: a value such as {default!r}'
    elif name == 'prompt' and value not in PROMPTS:
      yield f'{field}: unknown; fix: one of {", ".join(PROMPTS)}'
    elif name in _POSITIVE and isinstance(value, int | float) and value <= 0:
      yield f'{field}: out of range; fix: a number above 0'


def _is_day(text: str) -> bool:
  try:
    return datetime.date.fromisoformat(text).isoformat() == text
  except ValueError:
    return False


def _parameters(task: str) -> dict[str, inspect.Parameter]:
  """Returns the parameters of a task. A class that takes `**options` has those of the class that it extends, too."""
  made = lookup('task', task, tasks.TASKS)
  found = dict(inspect.signature(made).parameters)
  for base in made.__mro__[1:] if isinstance(made, type) else ():
    if base in (tasks.Task, object) or all(p.kind is not p.VAR_KEYWORD for p in found.values()):
      break
    found = dict(inspect.signature(base).parameters) | {name: p for name, p in found.items() if p.kind is not p.VAR_KEYWORD}
  return found

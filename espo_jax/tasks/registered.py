"""The register of tasks."""

import inspect
from collections.abc import Callable
from typing import Any

from espo_jax.registry import Method, Register, RegistryError, place
from espo_jax.tasks.task import Task, lookup

TASKS: Register[Callable[..., Task]] = Register('task', 'task.name')

_OWN = ('problem', 'solution', 'verify', 'stated_answer', 'size', 'tokenizer')  # methods without a default in `Task`
_INHERITED = ('question', 'verify_all', 'findings')


def register(name: str) -> Callable[[Method], Method]:
  """Registers a task under the name by which `task.name` asks for it.

  It decorates a class, or a function that makes a task. The keyword arguments are set by `config.task.options`. An argument
  named like a field of `config.data`, or `seed`, gets the config's value. A task that takes `**options` checks the names of its
  options itself.

  Raises:
    RegistryError: The name cannot be used, or a class lacks a method of `Task`.
  """
  TASKS.check_called(name)

  def mark(task: Method) -> Method:
    if isinstance(task, type) and (missing := _missing(task)):
      fix = f'inherit from tasks.Task and write {missing!r} as it says there'
      raise RegistryError(f'{place(task)}: task {name!r}: it has no method {missing!r}; fix: {fix}')
    TASKS.check(name, task)
    return TASKS.add(name, task, task)

  return mark


def get(name: str, **kwargs: Any) -> Task:
  """Builds the task registered as `name` with its own keyword arguments."""
  return lookup('task', name, TASKS)(**kwargs)


def _missing(task: type) -> str:
  """Returns the first method of `Task` that a class neither defines nor inherits; '' if none is missing."""
  for method in (*_OWN, *_INHERITED):
    found = inspect.getattr_static(task, method, None)
    if found is None or (method in _OWN and found is inspect.getattr_static(Task, method)):
      return method
  return ''

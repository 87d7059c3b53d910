"""Loads an environment of the package `verifiers`, and tells its rows. The task 'verifiers' runs this file as a process.

The package is only imported in processes apart. Its import takes seconds, and each of its environments handles SIGINT and
SIGTERM in a way of its own, which a training must not.

The arguments of the process are the name of an environment or a function of the user's, and its arguments as JSON. It writes
JSON: `{"rows": [[held_out, messages, answer], ...], "repeats": ..., "tools": [...]}`, or `{"error": ...}`.
"""

import json
import os
import runpy
import signal
import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

Message = dict[str, Any]


class Row(NamedTuple):
  """A row of an environment's data.

  Attributes:
    held_out: whether the environment has it for evaluations.
    messages: the prompt of the row, in the form that `spoken` gives.
    given: the row in the form that the environment wants back.
  """

  held_out: bool
  messages: list[Message]
  given: dict[str, Any]


def load_environment(load: str, arguments: Mapping[str, Any]) -> Any:
  """Makes an environment of the package. The handlers of signals stay as they are.

  Args:
    load: The name of an environment, which is a module with a function `load_environment`, or `FILE.py:FUNCTION`.
    arguments: The keyword arguments of that function.

  Raises:
    ImportError: The package is of a version without such environments.
  """
  import verifiers

  if not hasattr(verifiers, 'load_environment'):
    fix = "fix: pip install -e '.[verifiers]', which installs a version below 0.4"
    raise ImportError(f'verifiers {verifiers.__version__} has no load_environment; {fix}')
  handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
  file, _, function = load.rpartition(':')
  try:
    return runpy.run_path(file)[function](**arguments) if file else verifiers.load_environment(load, **arguments)
  finally:
    for number, handler in handlers.items():
      signal.signal(number, handler)


def rows_of(environment: Any) -> tuple[dict[str, Row], int]:
  """Returns the rows of an environment by their question, which is the text of the last message, and the number of repeats.

  Of rows with equal questions the first counts. Those for evaluations come first, so that no question is in both sets.

  Raises:
    ValueError: A prompt is no conversation that ends with a text of the user's, or calls a tool.
  """
  found: dict[str, Row] = {}
  count = 0
  for held_out, rows in ((True, environment.build_eval_dataset()), (False, environment.build_dataset())):
    for given in rows or ():
      prompt = given['prompt']
      messages = [spoken(message) for message in prompt] if isinstance(prompt, list) else []
      if not messages or messages[-1]['role'] != 'user' or not messages[-1]['content'].strip():
        raise ValueError(f'prompt = {str(prompt)[:200]!r}: no messages of which the last is a text of the user; fix: such ones')
      if any('tool_calls' in message for message in messages):
        raise ValueError(f'prompt = {str(prompt)[:200]!r}: a prompt with a tool call; fix: examples of calls as texts')
      found.setdefault(messages[-1]['content'], Row(held_out, messages, given))
      count += 1
  return found, count - len(found)


def spoken(message: Any) -> Message:
  """Returns the role and the text of a message, and its tool calls if it has any.

  Args:
    message: A dictionary as the OpenAI API has it, or an object of the package.

  Raises:
    ValueError: A part of the message is no text.
  """
  of = message if isinstance(message, Mapping) else message.model_dump()
  parts = of.get('content') or ''
  texts = [part.get('text') for part in parts] if isinstance(parts, list) else [parts]
  if not all(isinstance(text, str) for text in texts):
    raise ValueError(f'a message of the role {of["role"]!r} has a part that is no text; fix: an environment of texts')
  calls = [call['function'] for call in of.get('tool_calls') or ()]
  said = {'role': of['role'], 'content': ''.join(texts)}
  return said | {'tool_calls': [(call['name'], call['arguments']) for call in calls]} if calls else said


def tools_of(environment: Any) -> list[dict[str, Any]]:
  """Returns the tools of an environment as chat templates take them."""
  tools = getattr(environment, 'tool_defs', None) or ()
  return [tool_shown({name: getattr(tool, name) for name in ('name', 'description', 'parameters')}) for tool in tools]


def tool_shown(function: Mapping[str, Any]) -> dict[str, Any]:
  """Returns a tool with what a policy is told of it: its name, its description and its parameters."""
  return {'type': 'function', 'function': {name: function.get(name) for name in ('name', 'description', 'parameters')}}


def main() -> None:
  """Writes the rows of the environment that the arguments name."""
  load, arguments = sys.argv[1:]
  with os.fdopen(os.dup(1), 'w') as reply:
    os.dup2(2, 1)  # what libraries print must not be among the rows
    try:
      environment = load_environment(load, json.loads(arguments))
      rows, repeats = rows_of(environment)
      told = [(row.held_out, row.messages, str(row.given.get('answer') or '')) for row in rows.values()]
      json.dump({'rows': told, 'repeats': repeats, 'tools': tools_of(environment)}, reply)
    except (Exception, SystemExit) as error:  # a user's code may raise anything
      json.dump({'error': f'{type(error).__name__}: {str(error)[:500]}'}, reply)


if __name__ == '__main__':
  main()

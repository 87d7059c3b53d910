"""Runs as the process that calls rewards that read text; `text.TextScorer` starts this file.

The arguments are the seconds that a call may take and the users' files to load. The process communicates by lines of JSON. When
it is ready it writes `{}` or `{"error": ...}`. After that it reads `[name, options, arguments]` and writes `{"value": [...]}`
or `{"error": ...}`, call by call.
"""

import runpy
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

_SERVER = Path(__file__).parents[1] / 'tasks' / 'grading' / 'worker.py'


def main() -> None:
  """Serves calls until the input ends."""
  seconds, *files = sys.argv[1:]
  runpy.run_path(str(_SERVER))['serve'](int(seconds), lambda: _load(files))  # by path: signals are ignored before the imports


def _load(files: list[str]) -> Callable[[Any], object]:
  """Imports the rewards and the users' files, and returns the function from a question to its reply."""
  from espo_jax.registry import load_plugin

  for file in files:
    load_plugin(file)
  return _called


def _called(question: tuple[str, dict[str, Any], list[Any]]) -> dict[str, Any]:
  """Returns the value of a reward as nested lists, or the error that it raised with its place."""
  import numpy as np

  from espo_jax.rewards import REGISTRY

  name, options, arguments = question
  read = [np.asarray(x['array'], x['dtype']) if isinstance(x, dict) else x for x in arguments]
  try:
    return {'value': np.asarray(REGISTRY[name](*read, **options), np.float32).tolist()}
  except Exception as error:  # a user's code may raise anything
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return {'error': f'{frame.filename}:{frame.lineno}: {type(error).__name__}: {error}'}


if __name__ == '__main__':
  main()

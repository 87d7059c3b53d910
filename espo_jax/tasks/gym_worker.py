"""Runs as a process that draws the problems of a reasoning-gym data set, or scores answers to them.

`process.WorkerProcess` starts this file. Its arguments are the number of seconds after which it ends itself, `draw` or `score`,
and the name and the config of the data set, pickled, in base64. It communicates by lines of JSON:

| work | it reads | it writes |
|---|---|---|
| `draw` | `[seed, position]` | `{"question": ..., "answer": ..., "entry": ...}` or `{"error": ...}` |
| `score` | `[answer, entry]` | the score, or null where the scorer raises an error |

The entry is pickled, in base64, so that a scorer gets it exactly as it was drawn.

Some scorers evaluate the answer as Python: with `eval`, or with sympy's parser, which calls it. A process that scores therefore
refuses code that is more than a formula, does not change files, starts no program, and has a limit on its memory.
"""

import base64
import builtins
import contextlib
import dataclasses
import dis
import functools
import math
import os
import pickle
import random
import re
import resource
import runpy
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

MEMORY = 2**30  # the address space of a process that scores, in bytes; the imports alone take a quarter of it
_SERVER = Path(__file__).parent / 'grading' / 'worker.py'
_SOME = 8  # the entries of the data set of a process that scores; none but the first is used
_FORMULA = (abs, bool, complex, divmod, float, int, list, max, min, pow, range, round, set, sum, tuple)
_CODE = {name for name, value in vars(builtins).items() if value not in _FORMULA}  # such as `open` and `__import__`
_OF_PARSER = compile('from sympy import *', '<string>', 'exec')  # sympy runs this before a formula
_READS = ('os.listdir', 'os.scandir')  # allowed, because imports list folders
_ACTS = ('ctypes.', 'os.', 'pty.', 'shutil.', 'signal.', 'socket.', 'subprocess.', 'tempfile.')


def main() -> None:
  """Serves draws or scores until the input ends."""
  seconds, work, dataset = sys.argv[1:]
  load = functools.partial({'draw': _drawing, 'score': _scoring}[work], dataset)
  runpy.run_path(str(_SERVER))['serve'](int(seconds), load)  # by path: signals are ignored before the imports


def _drawing(dataset: str) -> Callable[[Any], object]:
  """Imports the data set, and returns the function that draws the entry at a position of a seed."""
  import numpy as np

  kind, config = _kind_and_config(dataset)

  @functools.lru_cache(maxsize=4)
  def seeded(seed: int) -> Any:
    return kind(dataclasses.replace(config, seed=seed))

  def draw(question: tuple[int, int]) -> dict[str, Any]:
    seed, position = question
    try:
      entries = seeded(seed)
      random.seed(seed + position)  # a few data sets read the global generators
      np.random.seed(seed + position)  # noqa: NPY002
      entry = entries[position]
    except Exception as error:  # a data set may find no problem
      return {'error': f'{type(error).__name__}: {error}'}
    answer = None if entry['answer'] is None else str(entry['answer'])
    return {'question': str(entry['question']), 'answer': answer, 'entry': base64.b64encode(pickle.dumps(entry)).decode()}

  return draw


def _scoring(dataset: str) -> Callable[[Any], object]:
  """Imports the data set and what its scorer needs, then limits the process, and returns the scorer."""
  kind, config = _kind_and_config(dataset)
  entries = kind(dataclasses.replace(config, seed=0, size=_SOME))
  with contextlib.suppress(Exception):
    entries.score_answer(str(entries[0]['answer']), entries[0])  # the first call imports things
  with contextlib.suppress(ValueError, OSError):  # not every system can limit the address space; the deadline works everywhere
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
  sys.addaudithook(_refuse)

  def score(question: tuple[str, str]) -> float | None:
    answer, entry = question
    try:
      value = float(entries.score_answer(answer, pickle.loads(base64.b64decode(entry))))
    except (Exception, SystemExit):
      return None
    return None if math.isnan(value) else min(max(value, 0.0), 1.0)  # sums of shares round to 1.0000000000000002

  return score


def _kind_and_config(dataset: str) -> tuple[Any, Any]:
  from reasoning_gym.factory import DATASETS

  name, config = pickle.loads(base64.b64decode(dataset))
  return DATASETS[name][0], config


def _refuse(event: str, arguments: tuple[Any, ...]) -> None:
  """Raises PermissionError, as an audit hook of Python, before an answer runs code that is no formula or acts on the system."""
  if event == 'exec':
    code = arguments[0]
    refused = (
      isinstance(code, types.CodeType) and re.match('<(?!frozen)', code.co_filename) is not None and not _is_formula(code)
    )
  elif event == 'open':
    flags = arguments[2]
    refused = isinstance(flags, int) and bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC))
  else:
    refused = event.startswith(_ACTS) and event not in _READS
  if refused:
    raise PermissionError(f'{event} in an answer')


def _is_formula(code: types.CodeType) -> bool:
  """Returns whether code defines no function, reads no attribute, imports nothing and calls no Python but arithmetic."""
  if (code.co_code, code.co_names, code.co_consts) == (_OF_PARSER.co_code, _OF_PARSER.co_names, _OF_PARSER.co_consts):
    return True
  if any(isinstance(constant, types.CodeType) for constant in code.co_consts):
    return False
  if any(name in _CODE or name.startswith('_') for name in code.co_names):
    return False
  return not any(part in step.opname for step in dis.get_instructions(code) for part in ('ATTR', 'METHOD', 'IMPORT'))


if __name__ == '__main__':
  main()

"""Runs a command several times for one import of it: each run is a fork of a process that has imported the module."""

import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import NamedTuple

ROOT = pathlib.Path(__file__).parents[1]
DRIVER = """
import gc, importlib, json, os, sys
from absl import app
name, runs, folder = sys.argv[1:]
module = importlib.import_module(name)
gc.freeze()  # no run looks through what the import has made
for i, words in enumerate(json.loads(runs)):
  if not (child := os.fork()):
    for number, stream in ((1, 'stdout'), (2, 'stderr')):
      os.dup2(os.open(f'{folder}/{i}.{stream}', os.O_CREAT | os.O_WRONLY), number)
    sys.argv = [name, *words]
    app.run(module.main, flags_parser=module.parse_flags)
  with open(f'{folder}/{i}.status', 'w') as file:
    file.write(str(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])))
"""


class Run(NamedTuple):
  """A finished run."""

  returncode: int
  stdout: str
  stderr: str


def run_each(module: str, runs: Sequence[Sequence[str]], folder: pathlib.Path, env: Mapping[str, str]) -> list[Run]:
  """Runs the command of a module, which has a `main` and a `parse_flags`, once for each list of words.

  Args:
    module: The module.
    runs: The words of each run.
    folder: An empty folder for their outputs.
    env: Environment variables besides those of this process.
  """
  command = [sys.executable, '-c', DRIVER, module, json.dumps([list(words) for words in runs]), str(folder)]
  subprocess.run(command, cwd=ROOT, env={**os.environ, **env, 'PYTHONPATH': str(ROOT)}, check=True, timeout=300)
  read = [[(folder / f'{i}.{what}').read_text() for what in ('status', 'stdout', 'stderr')] for i in range(len(runs))]
  return [Run(int(status), out, err) for status, out, err in read]

"""The small run that several drills start from: every stage in a few steps, with a checkpoint of each, and recordings."""

import atexit
import contextlib
import functools
import io
import pathlib
import runpy
import shutil
import sys
import tempfile
from typing import Any

from drills.jobs import ROOT
from espo_jax import train

FIELDS = {
  'baselines': (),
  'model.num_layers': 1,
  'rollout.record': 2,
  'checkpoint.every': 1,
  'warm_start.steps': 2,
  'warm_start.warmup_steps': 1,
  'learner.updates': 5,
}


def config(seed: int = 0) -> Any:
  """Returns the config of the run."""
  c = runpy.run_path(str(ROOT / 'experiments/quickstart.py'))['get_config']('smoke')
  c.update_from_flattened_dict(FIELDS | {'seed': seed})
  return c


def command(workdir: pathlib.Path) -> list[str]:
  """Returns the command that trains the run in a folder. Its working directory is that of the repository."""
  fields = [f'--config.{field}={value}' for field, value in FIELDS.items()]
  config_file = '--config=experiments/quickstart.py:smoke'
  return [sys.executable, '-m', 'espo_jax.train', config_file, f'--workdir={workdir}', '--nocheck_memory', *fields]


@functools.cache
def trained(seed: int = 0) -> pathlib.Path:
  """Returns the folder of the run with a seed, which is trained once in a process. It is not to be changed."""
  folder = pathlib.Path(tempfile.mkdtemp(prefix='small-'))
  atexit.register(shutil.rmtree, folder)
  with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
    train.train(config(seed), folder / 'run', check_memory=False)
  return folder / 'run'

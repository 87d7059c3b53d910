"""Records the environment of a run: its resolved config, the code, the libraries and the machine."""

import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from espo_jax.monitor.files import atomic_write_text, to_json

_PACKAGES = (
  'espo_jax',
  'jax',
  'jaxlib',
  'flax',
  'optax',
  'orbax-checkpoint',
  'transformers',
  'numpy',
  'reasoning-gym',
  'verifiers',
)


def describe(device_kind: str | None = None) -> dict[str, Any]:
  """Returns the git state of the code, the versions of Python and of the main packages, and a description of the machine.

  Args:
    device_kind: the name of the accelerator, such as `jax.devices()[0].device_kind`. It is passed in because this function does
      not start jax.
  """
  return {
    'git': _git(),
    'versions': {'python': platform.python_version(), **{name: _version(name) for name in _PACKAGES}},
    'platform': platform.platform(),
    'cpu_count': os.cpu_count(),
    **machine(),
    'xla_flags': os.environ.get('XLA_FLAGS', ''),
    'device_kind': device_kind,
  }


def machine() -> dict[str, Any]:
  """Returns what numbers depend on besides the code: the processor's model, and the number of XLA's threads on it."""
  return {'processor': _processor(), 'threads': _threads(os.environ)}


def write_run_info(workdir: str | os.PathLike[str], config_dict: Mapping[str, Any], device_kind: str | None = None) -> None:
  """Writes `<workdir>/config.json` and `<workdir>/environment.json`. An infinite number in the config is written as null."""
  atomic_write_text(Path(workdir) / 'config.json', to_json(config_dict, indent=2) + '\n')
  atomic_write_text(Path(workdir) / 'environment.json', to_json(describe(device_kind), indent=2) + '\n')


def _processor(info: Path = Path('/proc/cpuinfo')) -> str:
  """Returns the name of the processor's model, or the instruction set if no model is named."""
  try:
    lines = [line.partition(':') for line in info.read_text().splitlines()]
  except OSError:
    lines = []
  named = next((value.strip() for name, _, value in lines if name.strip() in ('model name', 'Model')), '')
  return named or platform.processor() or platform.machine()


def _threads(environment: Mapping[str, str]) -> int:
  """Returns the number of threads of XLA's CPU pool: `NPROC` if it is set, else the number of the process's cores."""
  asked = environment.get('NPROC', '')
  if asked.isdecimal() and int(asked) > 0:
    return int(asked)
  return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1


def _version(package: str) -> str | None:
  try:
    return importlib.metadata.version(package)
  except importlib.metadata.PackageNotFoundError:
    return None


def _git() -> dict[str, Any] | None:
  """Returns the commit and the dirty flag of the checkout that tracks this file.

  The result is None if git does not track the file, because an installed copy may lie inside another project's checkout.
  """
  here = Path(__file__)

  def run(*arguments: str) -> str:
    command = ['git', '-C', str(here.parent), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout.strip()

  try:
    run('ls-files', '--error-unmatch', here.name)
    return {'commit': run('rev-parse', '--verify', 'HEAD'), 'dirty': bool(run('status', '--porcelain'))}
  except (OSError, subprocess.SubprocessError):
    return None

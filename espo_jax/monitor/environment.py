"""What a run was: its resolved config, the code and the libraries that ran it, the machine."""

import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from espo_jax.monitor.files import atomic_write_text, to_json

_PACKAGES = ('espo_jax', 'jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'transformers', 'numpy')


def describe(device_kind: str | None = None) -> dict[str, Any]:
  """The code's git state, the versions of what it stands on, and the machine.

  Args:
    device_kind: the accelerator in words, such as `jax.devices()[0].device_kind`; this room does not start jax.
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
  """What numbers depend on beside the code: the processor's model, and the threads that XLA computes with on it."""
  return {'processor': _processor(), 'threads': _threads(os.environ)}


def write_run_info(workdir: str | os.PathLike[str], config_dict: Mapping[str, Any], device_kind: str | None = None) -> None:
  """Writes `<workdir>/config.json` and `<workdir>/environment.json`; an infinite number in the config reads null."""
  atomic_write_text(Path(workdir) / 'config.json', to_json(config_dict, indent=2) + '\n')
  atomic_write_text(Path(workdir) / 'environment.json', to_json(describe(device_kind), indent=2) + '\n')


def _processor(info: Path = Path('/proc/cpuinfo')) -> str:
  """The processor in words, the instruction set where nothing names a model."""
  try:
    lines = [line.partition(':') for line in info.read_text().splitlines()]
  except OSError:
    lines = []
  named = next((value.strip() for name, _, value in lines if name.strip() in ('model name', 'Model')), '')
  return named or platform.processor() or platform.machine()


def _threads(environment: Mapping[str, str]) -> int:
  """Those of XLA's pool on the processor: `NPROC`, or as many as the process has cores."""
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
  """Commit and dirty flag of the checkout this file is tracked in: an installed copy may lie in somebody else's."""
  here = Path(__file__)

  def run(*arguments: str) -> str:
    command = ['git', '-C', str(here.parent), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout.strip()

  try:
    run('ls-files', '--error-unmatch', here.name)
    return {'commit': run('rev-parse', '--verify', 'HEAD'), 'dirty': bool(run('status', '--porcelain'))}
  except (OSError, subprocess.SubprocessError):
    return None

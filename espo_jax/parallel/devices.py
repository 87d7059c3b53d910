"""Finds the devices of jax, with an error that says what to do if there are none, and a warning if jax misses one."""

import functools
import os
import shutil
from collections.abc import Callable, Mapping

import jax
from absl import logging

from espo_jax.names import nearest

_PLATFORMS = {  # what each value of JAX_PLATFORMS needs
  'cpu': 'every machine',
  'cuda': "a machine with an NVIDIA GPU and its driver, and pip install -e '.[cuda]'",
  'gpu': "a machine with a GPU and its driver, and for an NVIDIA one pip install -e '.[cuda]'",
  'rocm': "a machine with an AMD GPU and its driver, and jax's ROCm plugin",
  'tpu': "a TPU VM, and pip install -e '.[tpu]'",
}
_SIGNS = (  # a device, the files by which it is recognised, its platform, and what lets jax see it
  ('an NVIDIA GPU', ('/dev/nvidia0', '/proc/driver/nvidia/version'), 'cuda', "pip install -e '.[cuda]'"),
  ('a TPU', ('/dev/accel0', '/dev/vfio/0'), 'tpu', "pip install -e '.[tpu]'"),
  ('an AMD GPU', ('/dev/kfd',), 'rocm', "jax's ROCm plugin"),
)
_HIDDEN = ('', '-1')  # values of CUDA_VISIBLE_DEVICES that hide all devices


class DeviceError(RuntimeError):
  """There is no device to run on. The message names the variable, its value and the fix."""


def find_devices() -> list[jax.Device]:
  """Returns all devices of the job. The first call warns of an accelerator that jax does not see.

  Raises:
    DeviceError: jax finds no device.
  """
  try:
    devices = jax.devices()
  except (AssertionError, RuntimeError) as error:
    raise DeviceError(no_device(jax.config.values['jax_platforms'] or '', str(error), os.environ)) from error
  _warn_once(devices[0].platform)
  return devices


def no_device(platforms: str, reason: str, environment: Mapping[str, str]) -> str:
  """Returns the error message for a machine on which jax finds no device.

  Args:
    platforms: The value of `JAX_PLATFORMS`.
    reason: The error message of jax, of which the first line is kept.
    environment: The environment variables of the process.
  """
  said = f' ({reason.strip().splitlines()[0]})' if reason.strip() else ''
  if not platforms:
    return f"JAX_PLATFORMS='': jax finds no device{said}; fix: JAX_PLATFORMS=cpu to run on the processor"
  for name in platforms.split(','):
    if name not in _PLATFORMS:
      meant = nearest(name, _PLATFORMS)
      hint = f'did you mean {meant}? ' if meant else ''
      return (
        f'JAX_PLATFORMS={platforms}: jax knows no platform {name!r}{said}; {hint}fix: JAX_PLATFORMS={meant or "cpu"}, or leave '
        f'it out; known: {", ".join(_PLATFORMS)}'
      )
  hidden = environment.get('CUDA_VISIBLE_DEVICES')
  if hidden in _HIDDEN and 'tpu' not in platforms:
    return (
      f'JAX_PLATFORMS={platforms}: jax finds no such device{said}, for CUDA_VISIBLE_DEVICES={hidden!r} hides all; '
      'fix: CUDA_VISIBLE_DEVICES=0, or JAX_PLATFORMS=cpu to run on the processor'
    )
  return (
    f'JAX_PLATFORMS={platforms}: jax finds no such device{said}; fix: JAX_PLATFORMS=cpu to run on the processor, or '
    f'{_PLATFORMS[platforms.split(",")[0]]}'
  )


def overlooked(
  platform: str,
  environment: Mapping[str, str],
  exists: Callable[[str], bool] = os.path.exists,
  which: Callable[[str], str | None] = shutil.which,
) -> str:
  """Returns a warning if the machine has an accelerator and jax runs on the CPU without being asked to; '' otherwise.

  Args:
    platform: The platform that jax runs on.
    environment: The environment variables of the process.
    exists: The function that tells whether a file exists.
    which: The function that returns the path of a program; None if there is no such program.
  """
  if platform != 'cpu' or environment.get('JAX_PLATFORMS', '').split(',')[0] == 'cpu':
    return ''
  for device, files, name, fix in _SIGNS:
    if name != 'tpu' and environment.get('CUDA_VISIBLE_DEVICES') in _HIDDEN:
      continue
    signs = [file for file in files if exists(file)]
    if name == 'cuda' and not signs and (program := which('nvidia-smi')):
      signs = [program]
    if signs:
      return (
        f'this machine has {device} ({signs[0]}) that jax does not see: everything runs on the processor; fix: {fix}; where '
        f'that is done JAX_PLATFORMS={name} says what is wrong, and JAX_PLATFORMS=cpu that it is meant'
      )
  return ''


@functools.cache
def _warn_once(platform: str) -> None:
  if warning := overlooked(platform, os.environ):
    logging.warning('%s', warning)

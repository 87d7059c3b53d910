"""Fills in `model.dtype` where it is 'auto': the dtype in which the machine computes fastest.

A run that is resumed keeps the dtype of its first start, even on another machine, because its `config.json` has that dtype.
"""

import pathlib

import ml_collections

from espo_jax.configs.defaults import AUTO
from espo_jax.configs.reading import kept_field


def best_dtype(platform: str) -> str:
  """Returns the fastest dtype of a platform of jax. XLA converts bfloat16 on a CPU, which takes longer than float32."""
  return 'float32' if platform == 'cpu' else 'bfloat16'


def with_dtype(
  config: ml_collections.ConfigDict, platform: str = '', workdir: pathlib.Path | None = None
) -> ml_collections.ConfigDict:
  """Returns the config with another dtype in place of 'auto'. A config that names a dtype is returned unchanged.

  Args:
    config: The experiment.
    platform: The platform of the devices, such as 'cpu'; '' if it is not known yet.
    workdir: The folder whose run's dtype is kept; None for no run.

  Returns:
    The config with the dtype of the run in `workdir`, else with the platform's best. It is unchanged if neither is known.
  """
  if config.model.dtype != AUTO:
    return config
  kept = kept_field(workdir, 'model.dtype') if workdir else None
  dtype = kept if kept not in (None, AUTO) else best_dtype(platform) if platform else AUTO
  config = config.copy_and_resolve_references()
  config.model.dtype = dtype
  return config.lock()

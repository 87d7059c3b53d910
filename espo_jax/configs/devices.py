"""Checks a config against the devices that are there. `espo_jax.configs.validate` knows no devices."""

import jax
import ml_collections

from espo_jax.configs.fields import ConfigError
from espo_jax.configs.validate import row_problems, split_problems
from espo_jax.model import ModelConfig, fused


def check_attention(shape: ModelConfig, device: jax.sharding.AbstractDevice) -> None:
  """Checks that the form of attention that a config names can be computed on the devices.

  Args:
    shape: The shape of the decoder.
    device: The kind of the devices.

  Raises:
    ConfigError: The devices cannot compute the form.
  """
  if told := _refusal(shape, device):
    raise ConfigError([told])


def check_devices(config: ml_collections.ConfigDict, shape: ModelConfig, mesh: jax.sharding.Mesh) -> None:
  """Checks the sizes of mesh axes that were -1, the devices of every process, and what the devices can compute.

  Args:
    config: The experiment.
    shape: The shape of the decoder.
    mesh: The mesh over the devices.

  Raises:
    ConfigError: Rows or the model do not divide evenly, a process has no device of the mesh, or the devices cannot offload the
      optimizer or compute the form of attention.
  """
  problems = list(row_problems(config, mesh.shape['data'], mesh.shape['fsdp'])) if config.stages else []
  problems += split_problems(shape, mesh.shape['tensor'], mesh.shape['fsdp'], vocabulary=True)
  if idle := set(range(jax.process_count())) - {device.process_index for device in mesh.devices.flat}:
    problems.append(
      f'mesh = {dict(mesh.shape)}: {mesh.size} of {jax.device_count()} devices, none of them of process {min(idle)}; '
      'fix: mesh.data = -1, or fewer processes'
    )
  kinds = {memory.kind for device in mesh.devices.flat for memory in device.addressable_memories()}
  if config.learner.offload_optimizer and 'pinned_host' not in kinds:
    problems.append(
      f'learner.offload_optimizer = True: the devices have the memories {", ".join(sorted(kinds))} and no pinned_host; '
      'fix: learner.offload_optimizer = False'
    )
  if told := _refusal(shape, mesh.abstract_mesh.abstract_device):
    problems.append(told)
  if problems:
    raise ConfigError(problems)


def _refusal(shape: ModelConfig, device: jax.sharding.AbstractDevice) -> str:
  return fused.refusal(shape.attention, shape.dtype, shape.head_dim, device)

"""The device mesh and how arrays lie on it. Weights name logical axes; one table maps them."""

import math
from collections.abc import Sequence

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, PyTree

from espo_jax.parallel.devices import find_devices

AXES = ('data', 'fsdp', 'tensor')
BATCH = PartitionSpec(('data', 'fsdp'))
RULES = (
  ('batch', ('data', 'fsdp')),
  ('vocab', 'tensor'),
  ('embed', 'fsdp'),
  ('mlp', 'tensor'),
  ('heads', 'tensor'),
  ('kv_heads', 'tensor'),
  ('layers', None),
  ('norm', None),
  ('value', None),
  ('lora', None),
  ('exits', None),
)


def mesh_shape(data: int, fsdp: int, tensor: int, devices: int) -> tuple[int, int, int]:
  """The mesh's extents with a single -1 filled in.

  Raises:
    ValueError: They do not multiply to the number of devices, or more than one is -1.
  """
  sizes = {'data': data, 'fsdp': fsdp, 'tensor': tensor}
  open_axes = [name for name, size in sizes.items() if size == -1]
  if len(open_axes) > 1 or any(size == 0 or size < -1 for size in sizes.values()):
    raise ValueError(f'mesh = {sizes}: axes are positive, and at most one may be -1; fix: mesh.data = -1 and 1 for the others')
  if open_axes:
    known = int(np.prod([size for size in sizes.values() if size != -1]))
    if devices % known:
      raise ValueError(f'mesh = {sizes}: {devices} devices do not divide by {known}; fix: axes whose product divides {devices}')
    sizes[open_axes[0]] = devices // known
  needed = int(np.prod(list(sizes.values())))
  if needed > devices:
    raise ValueError(f'mesh = {sizes} needs {needed} devices and there are {devices}; fix: a smaller axis, or -1 for one')
  return sizes['data'], sizes['fsdp'], sizes['tensor']


def make_mesh(data: int, fsdp: int, tensor: int, devices: Sequence[jax.Device] | None = None) -> Mesh:
  """A mesh over the first of the devices, all that there are by default, its axes left to the compiler (GSPMD).

  Raises:
    DeviceError: There is no device.
    ValueError: The axes do not multiply to the number of devices.
  """
  devices = find_devices() if devices is None else devices
  shape = mesh_shape(data, fsdp, tensor, len(devices))
  devices = devices[: int(np.prod(shape))]
  return jax.make_mesh(shape, AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices)


def param_shardings(boxed: PyTree, mesh: Mesh, *, gathered: bool = False) -> PyTree:
  """The sharding of every parameter, from the logical axes in their boxes.

  Args:
    boxed: The parameters, or their shapes.
    mesh: The devices.
    gathered: Leave the fsdp axis out: what a program reads again and again it had better not gather each time.
  """
  rules = tuple((name, None if gathered and axis == 'fsdp' else axis) for name, axis in RULES)
  return nn.logical_to_mesh_sharding(nn.get_partition_spec(boxed), mesh, rules)


def gathering(boxed: PyTree, mesh: Mesh) -> jax.stages.Wrapped:
  """The program that gathers parameters, boxed or their shapes, over the fsdp axis: split over the tensor axis alone."""
  return jax.jit(lambda params: params, out_shardings=param_shardings(boxed, mesh, gathered=True))


def constrain(x: Array, *axes: str | None) -> Array:
  """An activation laid out as its logical axes say, None for one that is not split. Without a mesh it is left alone.

  An axis that does not divide, as that of a few prompts left over, is not split either.

  While a program is traced, an array knows the mesh of the arrays that it comes from. Left to itself the compiler may follow a
  parameter instead, and then every device computes all rows.
  """
  mesh = jax.typeof(x).sharding.mesh
  if mesh.empty:
    return x
  split = [axis and dict(RULES)[axis] for axis in axes]
  over = [math.prod(mesh.shape[name] for name in ([to] if isinstance(to, str) else to or ())) for to in split]
  spec = PartitionSpec(*(to if size % extent == 0 else None for to, size, extent in zip(split, x.shape, over, strict=True)))
  return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, spec))


def replicated(mesh: Mesh) -> NamedSharding:
  """The same on every device."""
  return NamedSharding(mesh, PartitionSpec())


def over_batch(mesh: Mesh) -> NamedSharding:
  """Rows split over the data and fsdp axes."""
  return NamedSharding(mesh, BATCH)

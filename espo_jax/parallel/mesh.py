"""Makes the device mesh and the shardings of arrays. Weights name logical axes, which one table maps to mesh axes."""

import math
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec
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
  """Returns the sizes of the mesh axes, with a single -1 replaced by the number of remaining devices.

  Raises:
    ValueError: The axes do not fit the number of devices, or more than one is -1.
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
  """Makes a mesh over as many of the devices as its axes need, with shardings left to the compiler (GSPMD).

  By default the devices are all devices of the job, and the mesh takes the first of them.

  Raises:
    DeviceError: There is no device.
    ValueError: The axes do not fit the number of devices.
  """
  devices = find_devices() if devices is None else devices
  shape = mesh_shape(data, fsdp, tensor, len(devices))
  devices = devices[: int(np.prod(shape))]
  return jax.make_mesh(shape, AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices)


def param_shardings(boxed: PyTree, mesh: Mesh, *, gathered: bool = False) -> PyTree:
  """Returns the sharding of every parameter, from the logical axes in its box.

  Args:
    boxed: The parameters, or their shapes.
    mesh: The device mesh.
    gathered: Whether the fsdp axis is left out. A program that reads the weights many times then need not gather each time.
  """
  rules = tuple((name, None if gathered and axis == 'fsdp' else axis) for name, axis in RULES)
  return nn.logical_to_mesh_sharding(nn.get_partition_spec(boxed), mesh, rules)


def gathering(boxed: PyTree, mesh: Mesh) -> jax.stages.Wrapped:
  """Returns the program that gathers parameters over the fsdp axis. Its results are split over the tensor axis alone."""
  return jax.jit(lambda params: params, out_shardings=param_shardings(boxed, mesh, gathered=True))


def constrain(x: Array, *axes: str | None, mesh: AbstractMesh | None = None) -> Array:
  """Constrains the sharding of an activation to its logical axes.

  An axis named None is not split. An axis whose size is not divisible, such as that of a few remaining prompts, is not split
  either. Without a mesh the array is returned unchanged.

  While a program is traced, an array knows the mesh of the arrays that it is computed from. Without the constraint the compiler
  may propagate the sharding of a parameter instead, and then every device computes all rows.

  Args:
    x: The activation.
    *axes: The names of its axes.
    mesh: The mesh of an array that is computed from no other; by default the one that the array knows.
  """
  mesh = jax.typeof(x).sharding.mesh if mesh is None else mesh
  return x if mesh.empty else jax.lax.with_sharding_constraint(x, NamedSharding(mesh, _spec(mesh, x.shape, axes)))


def on_each_device(function: Callable[..., Array], *arrays: tuple[Array, Sequence[str | None]]) -> Array:
  """Runs a function on every device's part of arrays, because the compiler cannot split a kernel by itself.

  Without a mesh the function gets the whole arrays.

  Args:
    function: The function. Its result has the axes of the first array.
    *arrays: The arrays with the logical axes along which they are split, as in `constrain`.
  """
  xs = [x for x, _ in arrays]
  mesh = jax.typeof(xs[0]).sharding.mesh
  if mesh.empty:
    return function(*xs)
  specs = tuple(_spec(mesh, x.shape, axes) for x, axes in arrays)
  return jax.shard_map(function, mesh=mesh, in_specs=specs, out_specs=specs[0], check_vma=False)(*xs)


def _spec(mesh: AbstractMesh, shape: Sequence[int], axes: Sequence[str | None]) -> PartitionSpec:
  split = [axis and dict(RULES)[axis] for axis in axes]
  over = [math.prod(mesh.shape[name] for name in ([to] if isinstance(to, str) else to or ())) for to in split]
  return PartitionSpec(*(to if size % extent == 0 else None for to, size, extent in zip(split, shape, over, strict=True)))


def replicated(mesh: Mesh) -> NamedSharding:
  """Returns the sharding of an array that every device holds whole."""
  return NamedSharding(mesh, PartitionSpec())


def over_batch(mesh: Mesh) -> NamedSharding:
  """Returns the sharding of rows that are split over the data and fsdp axes."""
  return NamedSharding(mesh, BATCH)

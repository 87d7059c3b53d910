"""The forms of attention over whole sequences, and which of them a device computes.

| form | where | scores in memory |
|---|---|---|
| `chunked` | everywhere | those of 512 queries at a time |
| `splash` | TPU | none (`espo_jax.model.splash`) |
| `cudnn` | NVIDIA GPU, half precision | none, but a mask for 512 queries at a time (`espo_jax.model.cudnn`) |

`auto` takes splash on a TPU that can compute the shapes, for sequences of 512 tokens or more: the scores of shorter ones are
small. It takes `chunked` elsewhere. cuDNN's kernel has not run on a GPU yet, so a config has to name it. The name of a card
does not tell its generation, so that cards before Ampere are not refused here. jax has no check for them either, and lowers the
kernel without an error. Nobody has compiled it for such a card.

A form that computes a mask of any shape takes prompts that segments share: `chunked` and `cudnn`. Splash compares one number
of a query with one of a key, so that it takes none.
"""

from typing import TypeAlias

import jax
from jaxtyping import Array, Float

AnyDevice: TypeAlias = jax.Device | jax.sharding.AbstractDevice  # one that is here, or a description of one
_LEAST = 512  # tokens of a sequence for which `auto` takes splash
_WIDEST = 128  # channels of a head that cuDNN computes on every NVIDIA GPU from Ampere on; later ones compute wider heads


def refusal(form: str, dtype: str, head_dim: int, device: AnyDevice) -> str:
  """Returns why a form of attention cannot be computed, with the fix; '' if it can.

  Args:
    form: The form.
    dtype: The dtype of the activations.
    head_dim: The width of a head.
    device: The kind of the devices.
  """
  platform, kind = device.platform, device.device_kind
  fix = "fix: model.attention = 'auto'"
  if form == 'splash' and platform != 'tpu':
    return f'model.attention = {form!r}: the kernel is for TPU, and the devices are of the platform {platform}; {fix}'
  if form == 'splash' and dtype not in ('float32', 'bfloat16'):
    return f"model.attention = {form!r}: the kernel does not compute in model.dtype = {dtype!r}; fix: model.dtype = 'bfloat16'"
  if form == 'cudnn' and (platform != 'gpu' or 'NVIDIA' not in kind):
    return (
      f'model.attention = {form!r}: the kernel is for NVIDIA GPUs from Ampere on, and the devices are {kind or platform}; {fix}'
    )
  if form == 'cudnn' and dtype not in ('float16', 'bfloat16'):
    return f"model.attention = {form!r}: the kernel does not compute in model.dtype = {dtype!r}; fix: model.dtype = 'bfloat16'"
  if form == 'cudnn' and (head_dim % 8 or head_dim > _WIDEST):
    return f'model.attention = {form!r}: the kernel is for heads of 8, 16 .. {_WIDEST} channels, not {head_dim}; {fix}'
  return ''


def takes_shared(form: str, dtype: str, head_dim: int, device: AnyDevice) -> bool:
  """Returns whether a form of attention takes prompts that segments share. `auto` does where it never takes splash.

  Args:
    form: The form.
    dtype: The dtype of the activations.
    head_dim: The width of a head.
    device: The kind of the devices.
  """
  return bool(refusal('splash', dtype, head_dim, device)) if form == 'auto' else form != 'splash'


def chosen(form: str, queries: Float[Array, 'B S H K']) -> str:
  """Returns the form that computes attention of these queries, on the devices that they are traced for.

  Args:
    form: The form that the config names.
    queries: The queries.

  Raises:
    ValueError: The devices cannot compute the form.
  """
  device = jax.typeof(queries).sharding.mesh.abstract_device or jax.devices()[0]

  def told(name: str) -> str:
    return refusal(name, queries.dtype.name, queries.shape[3], device)

  if form == 'auto':
    return 'splash' if queries.shape[1] >= _LEAST and not told('splash') else 'chunked'
  if told(form):
    raise ValueError(told(form))
  return form

"""Lists the published peak figures of chips, and computes the least time that a program can take on one.

The least times assume the published peaks and perfect overlap. They are bounds, not predictions.
"""

from typing import NamedTuple

from espo_jax.compile_check.cost import Cost


class Chip(NamedTuple):
  """Peak figures of one chip."""

  memory: float  # GiB of HBM
  flops: float  # bfloat16 operations per second
  bandwidth: float  # bytes per second from and to HBM
  links: float  # bytes per second that all links of the chip together send in one direction


# The figures are from docs.cloud.google.com/tpu/docs/v5e, /v5p and /v6e, which give the sum of both directions for links.
CHIPS = {
  'v5e': Chip(16, 197e12, 819e9, 400e9 / 2),
  'v5p': Chip(95, 459e12, 2765e9, 1200e9 / 2),
  'v6e': Chip(32, 918e12, 1600e9, 800e9 / 2),
}


class Roofline(NamedTuple):
  """The seconds that each part of a cost takes at its peak rate. The longest of them is the least time of the program."""

  compute: float
  memory: float
  links: float

  @property
  def seconds(self) -> float:
    """The least time."""
    return max(self)

  @property
  def bound(self) -> str:
    """The part that bounds the time."""
    return max(zip(self, self._fields, strict=True))[1]


def roofline(cost: Cost, chip: Chip) -> Roofline:
  """Computes the least time of a cost, if computation, memory traffic and sending overlap completely."""
  return Roofline(cost.flops / chip.flops, cost.bytes / chip.bandwidth, cost.sent.total() / chip.links)

"""What a chip can do, as its maker publishes it, and the least time that a program can take there.

The least times assume the published peaks and perfect overlap. They are bounds, not predictions.
"""

from typing import NamedTuple

from espo_jax.compile_check.cost import Cost


class Chip(NamedTuple):
  """Peak figures of one chip."""

  memory: float  # GiB of HBM
  flops: float  # a second, bfloat16
  bandwidth: float  # bytes a second, of HBM
  links: float  # bytes a second that all its links together send in one direction


# docs.cloud.google.com/tpu/docs/v5e, /v5p and /v6e; their bandwidth between chips is of both directions together.
CHIPS = {
  'v5e': Chip(16, 197e12, 819e9, 400e9 / 2),
  'v5p': Chip(95, 459e12, 2765e9, 1200e9 / 2),
  'v6e': Chip(32, 918e12, 1600e9, 800e9 / 2),
}


class Roofline(NamedTuple):
  """Seconds that a cost takes at the peak rate of each; the longest is the least time of all."""

  compute: float
  memory: float
  links: float

  @property
  def seconds(self) -> float:
    """The least time."""
    return max(self)

  @property
  def bound(self) -> str:
    """What it is bound by."""
    return max(zip(self, self._fields, strict=True))[1]


def roofline(cost: Cost, chip: Chip) -> Roofline:
  """The least time of a cost, everything overlapped."""
  return Roofline(cost.flops / chip.flops, cost.bytes / chip.bandwidth, cost.sent.total() / chip.links)

"""Counts the products and the bytes of attention kernels, which are single instructions to XLA, from their operands.

The splash kernels compute the scores of a block of queries and a block of keys at a time. The `i`-th of `n` blocks of queries,
from 0, takes the last `min(i + 1, w)` blocks of keys up to its own. A causal mask has `w = n`, and a window has fewer. cuDNN
computes all scores, because it gets a mask.

| kernel | products per score and channel | its loop reads for each block of scores |
|---|---|---|
| splash, forward | 2: scores, output | keys and values |
| splash, gradient of queries | 3: scores, weights, queries | keys and values |
| splash, gradient of keys and values | 4: scores, weights, keys, values | the arrays of the queries |
| cuDNN, forward | 2 | each array once |
| cuDNN, backward | 5: scores, weights, queries, keys, values | each array once |
"""

import math
import re
from typing import NamedTuple

from espo_jax.compile_check.hlo import Computation, Instruction, Shape

_SPLASH = re.compile(r'splash_mha_(fwd|dq|dkv)_')
_CUDNN = re.compile(r'custom_call_target="__cudnn\$fmha\w*?(Backward)?"')
_PRODUCTS = {'fwd': 2, 'dq': 3, 'dkv': 4}
_KEY_SIDE = (3, 4, 6)  # the operands of a splash kernel that belong to the keys: keys, values, their segments


class Kernel(NamedTuple):
  """The cost of one call.

  Attributes:
    flops: The operations of matrix products. A multiplication with an addition counts as two.
    bytes: The bytes that the call reads from and writes to main memory.
  """

  flops: float
  bytes: float


def kernel_cost(computation: Computation, instruction: Instruction) -> Kernel | None:
  """Returns the cost of a call of an attention kernel; None if the instruction is no such call.

  Args:
    computation: The computation with the instruction and its operands.
    instruction: The instruction, of any operation.
  """
  if instruction.op != 'custom-call':
    return None
  shapes = [computation[name].shapes[0] for name in instruction.operands if name in computation]
  if found := _CUDNN.search(instruction.attributes):
    (batch, queries, heads, width), keys = shapes[0].dims, shapes[1].dims[1]
    flops = 2.0 * (5 if found[1] else 2) * batch * heads * queries * keys * width
    return Kernel(flops, sum(shape.bytes for shape in shapes) + instruction.bytes)
  if 'custom_call_target="tpu_custom_call"' not in instruction.attributes:
    return None
  found = _SPLASH.search(f'{instruction.source} {instruction.name}')
  return _splash(found[1], shapes, instruction) if found else None


def _splash(phase: str, shapes: list[Shape], call: Instruction) -> Kernel:
  """The cost of a splash kernel.

  Args:
    phase: The kernel: `fwd`, `dq` or `dkv`.
    shapes: The operands: two tables of the blocks, queries, keys, values, segments of queries and keys, and for a gradient
      three arrays of the queries; the last one has the columns' numbers.
    call: The call.
  """
  near, count = sorted(shapes[0].dims[1:])
  computed = sum(min(i + 1, near) for i in range(count))  # blocks of scores per head
  *rows, heads, length, width = shapes[2].dims
  batch = math.prod(rows)  # a single row has no axis
  flops = 2.0 * _PRODUCTS[phase] * batch * heads * computed * (length // count) ** 2 * width
  read = 0.0
  for index, shape in enumerate(shapes[2:], start=2):
    if (index in _KEY_SIDE) != (phase == 'dkv'):  # its loop reads a block of it for each block of scores
      times = batch * heads * computed / count
    elif phase == 'dkv':  # the loop over heads is inside of that over blocks of keys, so that heads share what is there
      times = math.prod(shape.dims[:-2])
    else:
      times = batch * heads
    read += times * shape.bytes / math.prod(shape.dims[:-2]) if shape.in_main_memory else 0
  return Kernel(flops, read + call.bytes)

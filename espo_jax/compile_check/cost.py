"""Counts what a compiled program computes, reads, writes and sends, summed over the iterations of its loops.

XLA's own analysis counts the body of every loop once. For scanned layers that is too little by a factor of their number. The
matrix products of cuBLAS kernels are counted, and attention kernels as `espo_jax.compile_check.kernels` says. For other kernels
that XLA does not generate (Pallas), only the bytes read and written are known.
"""

import dataclasses
import math
import re
from collections import Counter

import numpy as np

from espo_jax.compile_check.hlo import Computation, Instruction, Program, Shape
from espo_jax.compile_check.kernels import kernel_cost

COLLECTIVES = ('all-gather', 'reduce-scatter', 'all-reduce', 'all-to-all', 'collective-permute')
_FREE = {  # these move no data, or the computation that they call is counted
  *('parameter', 'constant', 'tuple', 'get-tuple-element', 'bitcast', 'while', 'conditional', 'call', 'after-all'),
  *('partition-id', 'replica-id', 'copy-done', 'async-start', 'async-update', 'async-done', 'custom-call', 'opt-barrier'),
  *(f'{kind}-done' for kind in COLLECTIVES),
}
_CUBLAS = 'custom_call_target="__cublas'
_SLICES = {'dynamic-slice', 'slice', 'gather'}
_UPDATES = {'dynamic-update-slice': 1, 'scatter': 2}  # updates in place, and which operand has the new values
_PASSED_ON = {'bitcast', 'copy', 'reshape', 'transpose', 'convert'}  # inside a fusion these keep the elements


@dataclasses.dataclass
class Cost:
  """The cost of one run of a program on one device.

  Attributes:
    flops: The operations of matrix products and convolutions. A multiplication with an addition counts as two.
    bytes: The bytes that the instructions read from and write to main memory. For a slice or an update in place, only the bytes
      of the slice or of the updated part are counted.
    sent: The bytes that a device sends, by kind of collective, with the algorithms of least traffic. With `n` devices a gather
      or a scatter sends `(n - 1) / n` of the array, an all-reduce twice that, and a permutation the whole array.
    gathered: The sources and shapes of the results of all-gathers.
  """

  flops: float = 0.0
  bytes: float = 0.0
  sent: Counter[str] = dataclasses.field(default_factory=Counter)
  gathered: set[tuple[str, Shape]] = dataclasses.field(default_factory=set)

  def add(self, other: 'Cost', times: int) -> None:
    """Add another cost several times."""
    self.flops += times * other.flops
    self.bytes += times * other.bytes
    for kind, number in other.sent.items():
      self.sent[kind] += times * number
    self.gathered |= other.gathered

  def __add__(self, other: 'Cost') -> 'Cost':
    total = Cost()
    total.add(self, 1)
    total.add(other, 1)
    return total


@dataclasses.dataclass
class Counted:
  """A program's cost.

  Attributes:
    once: The cost outside of loops whose number of iterations is unknown. Loops with a known number count all iterations.
    turn: The cost of one iteration of each loop with an unknown number. In a rollout these are a refill and a decode step.
      Among branches the one with the most products counts, then the one with the most bytes. Attention therefore counts with
      all columns of the cache.
    unknown: The loops with an unknown number of iterations, by the operation that they come from.
  """

  once: Cost = dataclasses.field(default_factory=Cost)
  turn: Cost = dataclasses.field(default_factory=Cost)
  unknown: list[str] = dataclasses.field(default_factory=list)


def count(program: Program) -> Counted:
  """Counts the cost of a run of a program from its entry computation."""
  return _Counter(program).computation(program.entry)


class _Counter:
  def __init__(self, program: Program):
    self.computations = program.computations
    self.done: dict[str, Counted] = {}

  def computation(self, name: str) -> Counted:
    if name not in self.done:
      self.done[name] = self._sum(self.computations[name])
    return self.done[name]

  def _sum(self, computation: Computation) -> Counted:
    total, channels = Counted(), set[str]()
    for instruction in computation.values():
      if instruction.op == 'while':
        self._loop(total, computation, instruction)
      elif instruction.op == 'conditional':
        branches = [self.computation(name) for name in _branches(instruction)]
        self._include(total, max(branches, key=_products_and_bytes), 1)
      elif instruction.op in ('call', 'async-start'):
        role = 'to_apply' if instruction.op == 'call' else 'calls'
        if (callee := instruction.called(role)) is not None:
          self._include(total, self.computation(callee), 1)
      total.once.flops += self._flops(computation, instruction)
      if (instruction.op not in _FREE or _is_kernel(instruction)) and instruction.op.removesuffix('-start') not in COLLECTIVES:
        total.once.bytes += self._bytes(computation, instruction)
      for its, where in self._collectives(computation, instruction):
        # An asynchronous collective occurs in several fusions (start, continuation, end) and is counted once.
        channel = next(iter(re.findall(r'channel_id=(\d+)', its.attributes)), its.name)
        if channel not in channels:
          channels.add(channel)
          _send(total.once, its, where)
    return total

  def _loop(self, total: Counted, computation: Computation, loop: Instruction) -> None:
    body, condition = loop.called('body'), loop.called('condition')
    assert body is not None and condition is not None
    times = turns(self.computations, computation, loop)
    for name in (body, condition):
      its = self.computation(name)
      if times is None:
        total.turn.add(its.once, 1)
        total.turn.add(its.turn, 1)
        total.unknown += its.unknown
      else:
        self._include(total, its, times)
    if times is None:
      total.unknown.append(loop.source)

  def _include(self, total: Counted, its: Counted, times: int) -> None:
    total.once.add(its.once, times)
    total.turn.add(its.turn, times)
    total.unknown += its.unknown

  def _flops(self, computation: Computation, instruction: Instruction) -> float:
    if instruction.op == 'fusion':
      callee = self.computations[instruction.called('calls') or '']
      return sum(self._flops(callee, its) for its in callee.values())
    if (kernel := kernel_cost(computation, instruction)) is not None:
      return kernel.flops
    if instruction.op == 'dot' or _CUBLAS in instruction.attributes:
      return _dot_flops(computation, instruction)
    return _convolution_flops(computation, instruction) if instruction.op == 'convolution' else 0.0

  def _collectives(self, computation: Computation, instruction: Instruction) -> list[tuple[Instruction, Computation]]:
    if instruction.op == 'fusion':
      callee = self.computations[instruction.called('calls') or '']
      return [found for its in callee.values() for found in self._collectives(callee, its)]
    return [(instruction, computation)] if instruction.op.removesuffix('-start') in COLLECTIVES else []

  def _bytes(self, computation: Computation, instruction: Instruction) -> float:
    if (kernel := kernel_cost(computation, instruction)) is not None:
      return kernel.bytes
    operands = [computation[name] for name in instruction.operands if name in computation]
    op = instruction.op
    if op == 'fusion':
      callee = self.computations[instruction.called('calls') or '']
      read = sum(self._read(callee, number, operand) for number, operand in enumerate(operands))
      return read + self._written(callee, instruction)
    if op in _SLICES:
      return 2 * instruction.bytes
    if op in _UPDATES:
      return 2 * operands[_UPDATES[op]].bytes
    if op.endswith('-start'):  # the result has both the operand and the target
      return instruction.bytes
    return sum(operand.bytes for operand in operands) + instruction.bytes

  def _read(self, callee: Computation, number: int, operand: Instruction) -> float:
    """Returns the bytes read of a fusion's operand: only the slices if nothing else reads the operand, else all of it."""
    if number not in callee.parameters:
      return operand.bytes
    if not operand.bytes:
      return 0.0
    readers = self._readers(callee, callee.parameters[number].name)
    if all((first and reader.op in _SLICES | _UPDATES.keys()) or _carried(reader) for reader, first in readers):
      taken = sum(sum(shape.bytes for shape in reader.shapes) for reader, _ in readers if reader.op in _SLICES)
      return min(operand.bytes, taken)
    return operand.bytes

  def _readers(self, callee: Computation, name: str) -> list[tuple[Instruction, bool]]:
    """Returns the instructions that finally read an instruction of a fusion, each with whether it is their first operand."""
    found = []
    for user in callee.users[name]:
      if user.op in _PASSED_ON or (user.op == 'fusion' and self._passes_on(user)):
        found += self._readers(callee, user.name)
      else:
        found.append((user, user.operands[0] == name))
    return found

  def _passes_on(self, fusion: Instruction) -> bool:
    callee = self.computations[fusion.called('calls') or '']
    return all(its.op in _PASSED_ON | {'parameter'} for its in callee.values())

  def _written(self, callee: Computation, fusion: Instruction) -> float:
    """Returns the bytes that a fusion writes. For an update of a part of an operand, only that part counts."""
    results = [callee[name] for name in callee.root.operands] if callee.root.op == 'tuple' else [callee.root]
    total = 0.0
    for result in results:
      origin = result
      while origin.op in _PASSED_ON:
        origin = callee[origin.operands[0]]
      if origin.op in _UPDATES:
        total += 2 * sum(shape.bytes for shape in callee[origin.operands[_UPDATES[origin.op]]].shapes)
      elif origin.op != 'parameter' and not _carried(origin):
        total += result.bytes
    return total


def turns(computations: dict[str, Computation], computation: Computation, loop: Instruction) -> int | None:
  """Returns the number of iterations of a loop: the compiler's note, or the bound in `counter < constant`; None otherwise."""
  if noted := re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.attributes):
    return int(noted[1])
  condition, body = computations[loop.called('condition') or ''], computations[loop.called('body') or '']
  test = condition.root
  if test.op != 'compare' or 'direction=LT' not in test.attributes:
    return None
  counter, limit = (_through_copies(condition, name) for name in test.operands)
  if limit.op != 'constant' or counter.op != 'get-tuple-element':
    return None
  index = int(re.findall(r'index=(\d+)', counter.attributes)[0])
  carried = _through_copies(computation, loop.operands[0])
  if carried.op != 'tuple' or body.root.op != 'tuple':
    return None
  start = _through_copies(computation, carried.operands[index])
  step = _through_copies(body, body.root.operands[index])
  if start.op != 'constant' or step.op != 'add':
    return None
  by = [its for name in step.operands if (its := _through_copies(body, name)).op == 'constant']
  if len(by) != 1:
    return None
  return max(0, math.ceil((int(limit.inside) - int(start.inside)) / int(by[0].inside)))


def _is_kernel(instruction: Instruction) -> bool:
  return re.search(rf'{re.escape(_CUBLAS)}|custom_call_target="(tpu_custom_call|__cudnn)', instruction.attributes) is not None


def _carried(instruction: Instruction) -> bool:
  """Whether an instruction belongs to an asynchronous collective whose buffers a fusion passes on."""
  return instruction.op in ('custom-call', 'tuple') or instruction.op.removesuffix('-start') in COLLECTIVES


def _through_copies(computation: Computation, name: str) -> Instruction:
  instruction = computation[name]
  while instruction.op in ('copy', 'bitcast', 'copy-done', 'copy-start'):
    instruction = computation[instruction.operands[0]]
  return instruction


def _products_and_bytes(counted: Counted) -> tuple[float, float]:
  cost = counted.once + counted.turn
  return cost.flops, cost.bytes


def _branches(conditional: Instruction) -> list[str]:
  if listed := re.search(r'branch_computations=\{([^}]*)\}', conditional.attributes):
    return re.findall(r'%([\w.-]+)', listed[1])
  return [name for role in ('true_computation', 'false_computation') if (name := conditional.called(role))]


def _dot_flops(computation: Computation, dot: Instruction) -> float:
  left = computation[dot.operands[0]].shapes[0]
  summed = re.search(r'lhs_contracting_dim(?:s=|ensions":)[{\[]([\d,"]*)', dot.attributes)
  axes = [int(axis) for axis in re.findall(r'\d+', summed[1])] if summed else []
  return 2.0 * dot.shapes[0].elements * math.prod(left.dims[axis] for axis in axes)


def _convolution_flops(computation: Computation, convolution: Instruction) -> float:
  """Returns the operations of a convolution without positions in padding and in the holes of a dilation.

  On a TPU, products of batches of matrices are such convolutions.
  """
  left, right = (computation[name].shapes[0].dims for name in convolution.operands)
  out = convolution.shapes[0].dims
  labels = re.search(r'dim_labels=(\w+)_(\w+)->(\w+)', convolution.attributes)
  assert labels is not None
  window = re.search(r'window=\{([^}]*)\}', convolution.attributes)
  options = dict(part.split('=') for part in window[1].split()) if window else {}
  groups = [re.search(rf'{kind}_group_count=(\d+)', convolution.attributes) for kind in ('feature', 'batch')]
  by_feature, by_batch = (int(found[1]) if found else 1 for found in groups)
  total = 2.0 * left[labels[1].index('f')] / by_feature * out[labels[3].index('f')] * left[labels[1].index('b')] / by_batch
  for axis in range(len(labels[1]) - 2):

    def option(name: str, default: str, axis: int = axis) -> str:
      return options[name].split('x')[axis] if name in options else default

    size = right[labels[2].index(str(axis))]
    low = int(option('pad', '0_0').split('_')[0])
    stride, spread, holes = (int(option(name, '1')) for name in ('stride', 'rhs_dilate', 'lhs_dilate'))
    place = np.arange(out[labels[3].index(str(axis))])[:, None] * stride + np.arange(size) * spread - low
    total *= int(((place >= 0) & (place % holes == 0) & (place // holes < left[labels[1].index(str(axis))])).sum())
  return total


def _send(cost: Cost, collective: Instruction, computation: Computation) -> None:
  kind = collective.op.removesuffix('-start')
  given = sum(shape.bytes for name in collective.operands for shape in computation[name].shapes)
  devices = group_size(collective.attributes)
  share = (devices - 1) / devices
  if kind == 'all-gather':
    moved = share * given * devices
    cost.gathered |= {(collective.source, shape) for shape in collective.shapes}
  else:
    moved = {'all-reduce': 2 * share, 'collective-permute': 1.0}.get(kind, share) * given
  cost.sent[kind] += round(moved)
  cost.bytes += given + sum(shape.bytes for shape in collective.shapes)


def group_size(attributes: str) -> int:
  """Returns the number of devices that take part in a collective together; 1 if the collective names none."""
  if listed := re.search(r'replica_groups=\{\{([\d,]+)\}', attributes):
    return len(listed[1].split(','))
  if counted := re.search(r'replica_groups=\[([\d,]+)\]<=', attributes):
    return int(counted[1].split(',')[-1])
  if named := re.search(r'replica_groups=mesh\[([^\]]*)\] ?\{([^}]*)\}', attributes):
    sizes = dict(re.findall(r"'(\w+)'=(\d+)", named[1]))
    return math.prod(int(sizes[axis]) for axis in re.findall(r"'(\w+)'", named[2]))
  return 2 if 'source_target_pairs' in attributes else 1

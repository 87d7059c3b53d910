"""Reads the memory that a compiled program takes on one device from the compiler's buffer assignment."""

import re
from typing import NamedTuple

from espo_jax.compile_check.hlo import Computation, Program, Shape, read_shapes

_ALLOCATION = re.compile(r'^allocation \d+: size (\d+), (.*):$')
_VALUE = re.compile(r'^ value: <\d+ ([\w.-]+)\S* (\(phi\) )?@\d+> \(size=(\d+),offset=(\d+)\): (.*)$')


class Temporary(NamedTuple):
  """A buffer that is neither an argument nor a result."""

  bytes: int
  shape: Shape
  source: str  # the operation of the model that the buffer comes from


class Memory(NamedTuple):
  """The bytes that a program takes per device."""

  arguments: int
  outputs: int  # without outputs that reuse the memory of an argument
  temporaries: int
  largest: tuple[Temporary, ...]

  @property
  def peak(self) -> int:
    """An upper bound on the bytes that are taken at a time."""
    return self.arguments + self.outputs + self.temporaries


def read_memory(text: str, program: Program, count: int = 8) -> Memory:
  """Read XLA's buffer assignment.

  Args:
    text: The buffer assignment that the compiler dumps.
    program: The program, which maps an instruction to the operation that it comes from.
    count: The number of temporaries that are named, the largest first. Buffers that share a place over time are named once.
  """
  where = {name: computation for computation in program.computations.values() for name in computation}
  sizes = {'arguments': 0, 'outputs': 0, 'temporaries': 0}
  kind, places = '', dict[tuple[int, int], Temporary]()
  for line in text.splitlines():
    if found := _ALLOCATION.match(line):
      kind = _kind(found[2])
      if kind:
        sizes[kind] += int(found[1])
    elif kind == 'temporaries' and (found := _VALUE.match(line)):
      place = int(found[4]), int(found[3])
      shapes = read_shapes(found[5])
      if not shapes or found[2] or found[1] not in where:  # the values that a loop carries appear under their own names
        continue
      source = _source(where[found[1]], found[1])
      if place not in places or ('/' in source and '/' not in places[place].source):
        places[place] = Temporary(place[1], shapes[0], source)
  largest = sorted(places.values(), key=lambda temporary: -temporary.bytes)
  return Memory(**sizes, largest=tuple(largest[:count]))


def _source(computation: Computation, name: str) -> str:
  """Returns the operation that a value comes from. A copy has the source of its original."""
  its = computation[name]
  while its.source == its.name and its.operands and its.op in ('copy', 'copy-start', 'bitcast'):
    its = computation[its.operands[0]]
  return its.source


def _kind(described: str) -> str:
  """Returns which sum of `Memory` an allocation belongs to; '' if it is not in main memory."""
  if 'thread-local' in described or re.search(r'color [1-9]', described):
    return ''
  for word, kind in (('parameter', 'arguments'), ('maybe-live-out', 'outputs'), ('preallocated-temp', 'temporaries')):
    if word in described:
      return kind
  return ''

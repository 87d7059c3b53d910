"""Parses the text of a compiled program (HLO) into computations and their instructions."""

import functools
import math
import re
from collections.abc import Iterator
from typing import NamedTuple

_BITS = {'pred': 8, 'token': 0, 'opaque': 0, 'c64': 64, 'c128': 128}
_ARRAY = re.compile(r'([a-z]\w*)\[([\d,<= ]*)\](?:\{([^}]*)\})?')
_HEAD = re.compile(r'^(ENTRY )?%?([\w.-]+) \(.*\{$')
_NAME = re.compile(r'%([\w.-]+)')


class Shape(NamedTuple):
  """The type and shape of one array."""

  dtype: str
  dims: tuple[int, ...]
  layout: str

  @property
  def elements(self) -> int:
    """The number of elements."""
    return math.prod(self.dims)

  @property
  def bytes(self) -> int:
    """The size of the array in bytes, without padding."""
    bits = _BITS.get(self.dtype) or int(next(iter(re.findall(r'\d+', self.dtype)), '0'))
    return -(-self.elements * bits // 8)

  @property
  def in_main_memory(self) -> bool:
    """Whether the array is in the default memory space, and not in a scratchpad or on the host."""
    return re.search(r'S\(\d+\)', self.layout) is None

  def __str__(self) -> str:
    return f'{self.dtype}[{",".join(map(str, self.dims))}]'


class Instruction(NamedTuple):
  """One instruction of a computation."""

  name: str
  shapes: tuple[Shape, ...]  # the arrays of its result; several if the result is a tuple
  op: str
  operands: tuple[str, ...]  # instructions of the same computation
  inside: str  # the text between the parentheses, such as a constant's value or a parameter's number
  attributes: str  # the text after the parentheses
  root: bool

  @property
  def bytes(self) -> int:
    """The bytes of all arrays of the result that are in main memory."""
    return sum(shape.bytes for shape in self.shapes if shape.in_main_memory)

  @property
  def source(self) -> str:
    """The operation of the model that the instruction comes from."""
    found = re.search(r'op_name="([^"]*)"', self.attributes)
    return found[1] if found else self.name

  def called(self, role: str) -> str | None:
    """Returns the computation that the instruction calls as `role`, such as body; None if there is none."""
    found = re.search(rf'\b{role}=%?([\w.-]+)', self.attributes)
    return found[1] if found else None


class Computation(dict[str, Instruction]):
  """Instructions by name, in their order."""

  @functools.cached_property
  def root(self) -> Instruction:
    """The instruction whose result is the result of the computation."""
    return next(instruction for instruction in self.values() if instruction.root)

  @functools.cached_property
  def parameters(self) -> dict[int, Instruction]:
    """The parameters by their number."""
    return {int(i.inside): i for i in self.values() if i.op == 'parameter'}

  @functools.cached_property
  def users(self) -> dict[str, list[Instruction]]:
    """The instructions that read each instruction."""
    found: dict[str, list[Instruction]] = {name: [] for name in self}
    for instruction in self.values():
      for operand in dict.fromkeys(instruction.operands):
        found[operand].append(instruction)
    return found


class Program(NamedTuple):
  """A compiled module."""

  computations: dict[str, Computation]
  entry: str


def parse(text: str) -> Program:
  """Read a module as XLA prints it.

  Raises:
    ValueError: The text has no entry computation.
  """
  computations: dict[str, Computation] = {}
  entry, current = '', Computation()
  for line in _whole_lines(text):
    if line.startswith('  ') and ' = ' in line:
      instruction = _instruction(line)
      current[instruction.name] = instruction
    elif head := _HEAD.match(line):
      current = computations[head[2]] = Computation()
      entry = head[2] if head[1] else entry
  if not entry:
    raise ValueError('no ENTRY computation: this is not the text of a compiled program')
  return Program(computations, entry)


def _whole_lines(text: str) -> Iterator[str]:
  """Yields the lines of a module. An attribute that a kernel sets is on lines of its own, which belong to the line before."""
  whole = ''
  for line in text.splitlines():
    if line.startswith(('"', '}}')):
      whole += line
    else:
      yield whole
      whole = line
  yield whole


def _instruction(line: str) -> Instruction:
  left, right = line.split(' = ', 1)
  end = _closing(right, 0) if right.startswith('(') else right.index(' ')
  shape, rest = right[:end], right[end:].lstrip()
  opening = rest.index('(')
  closing = _closing(rest, opening)
  inside = rest[opening + 1 : closing - 1]
  return Instruction(
    name=left.strip().removeprefix('ROOT ').removeprefix('%'),
    shapes=read_shapes(shape),
    op=rest[:opening],
    operands=tuple(_NAME.findall(inside)),
    inside=inside,
    attributes=rest[closing:],
    root=left.lstrip().startswith('ROOT '),
  )


def read_shapes(text: str) -> tuple[Shape, ...]:
  """Parses the arrays of a shape as XLA prints it, in their order."""
  return tuple(
    Shape(dtype, tuple(int(n.strip('<= ')) for n in dims.split(',') if n), layout)
    for dtype, dims, layout in _ARRAY.findall(text)
  )


def _closing(text: str, opening: int) -> int:
  """Returns the position behind the parenthesis that closes the one at `opening`."""
  depth = 0
  for i in range(opening, len(text)):
    depth += (text[i] == '(') - (text[i] == ')')
    if depth == 0:
      return i + 1
  raise ValueError(f'unbalanced: {text[:80]}')

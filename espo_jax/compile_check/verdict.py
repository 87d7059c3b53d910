"""Compiles a program of training and reports whether it fits, what it costs, and whether it has arrays that it should not."""

import contextlib
import pathlib
import tempfile
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import ml_collections
from jax.experimental.compilation_cache import compilation_cache

from espo_jax.compile_check.buffers import Memory, read_memory
from espo_jax.compile_check.chips import Chip, Roofline, roofline
from espo_jax.compile_check.cost import Cost, Counted, count
from espo_jax.compile_check.hlo import Program, parse
from espo_jax.compile_check.programs import Programs
from espo_jax.configs.memory import fewer_tokens
from espo_jax.model import split_frozen

GIB = 2**30


class Checked(NamedTuple):
  """The findings about a program, per device."""

  name: str
  mesh: dict[str, int]
  memory: Memory
  counted: Counted
  parts: dict[str, int]  # the parts of its memory, in bytes
  beside: int  # bytes that training keeps on the device meanwhile
  gathers_cache: bool  # whether an all-gather makes a layer's whole keys or values of the cache
  holds_logits: bool  # whether one array holds the logits of all columns
  limit: float  # GiB per device
  accepted: bool  # whether the compiler accepted the program; some compilers refuse one that does not fit

  @property
  def peak(self) -> int:
    """The bytes that are taken while the program runs."""
    return self.memory.peak + self.beside

  @property
  def fits(self) -> bool:
    """Whether the memory is enough for the program to run."""
    return self.accepted and self.peak <= self.limit * GIB


def check(programs: Programs, name: str, limit: float) -> Checked:
  """Compile one of `PROGRAMS` and analyse the result.

  Args:
    programs: The programs of an experiment on a mesh.
    name: The name of the program.
    limit: The memory per device in GiB.
  """
  program, memory, accepted = _compiled(programs.lower(name))
  counted = count(program)
  beside = on_device(programs.beside(name))
  return Checked(
    name=name,
    mesh=dict(programs.mesh.shape),
    memory=memory,
    counted=counted,
    parts=_parts(programs, name, memory) | ({'arrays kept beside it': beside} if beside else {}),
    beside=beside,
    gathers_cache=_gathers_cache(programs, counted),
    holds_logits=_holds_logits(programs, program),
    limit=limit,
    accepted=accepted,
  )


def _compiled(lowered: jax.stages.Lowered) -> tuple[Program, Memory, bool]:
  """Compiles a program and reads the compiler's dumps, which also exist if it refuses the program for its memory."""
  with tempfile.TemporaryDirectory() as folder, _without_cache():
    accepted = True
    try:
      lowered.compile({'xla_dump_to': folder, 'xla_dump_hlo_as_text': True})
    except jax.errors.JaxRuntimeError as error:
      if 'RESOURCE_EXHAUSTED' not in str(error):
        raise
      accepted = False

    def read(kind: str) -> str:
      (path,) = pathlib.Path(folder).glob(f'*after_optimizations{kind}.txt')
      return path.read_text()

    program = parse(read(''))
    return program, read_memory(read('-buffer-assignment'), program), accepted


@contextlib.contextmanager
def _without_cache() -> Iterator[None]:
  """Turns the persistent cache off, because a program found there is not compiled and no dump is written."""
  before = jax.config.values['jax_enable_compilation_cache']
  jax.config.update('jax_enable_compilation_cache', False)
  if jax.config.values['jax_compilation_cache_dir']:
    compilation_cache.reset_cache()  # otherwise jax still uses the cache
  try:
    yield
  finally:
    jax.config.update('jax_enable_compilation_cache', before)
    if jax.config.values['jax_compilation_cache_dir']:
      compilation_cache.reset_cache()


def _parts(programs: Programs, name: str, memory: Memory) -> dict[str, int]:
  if name == 'reshard':
    return {'parameters': memory.arguments, 'gathered parameters': memory.outputs}
  if name in ('rollout', 'turn'):
    caches = _local_bytes(programs.caches, programs.mesh.size)
    if name == 'turn':  # the caches are among its arguments
      return {'parameters': memory.arguments - caches, 'caches': caches, 'temporaries': memory.temporaries}
    return {'parameters': memory.arguments, 'caches': caches, 'other temporaries': memory.temporaries - caches}
  if name == 'prepare':
    return {'parameters': memory.arguments, 'activations': memory.temporaries}
  trained, _ = split_frozen(programs.params, exits_alone=programs.config.exits.alone)
  copies = 1 if programs.config.learner.micro_batches == 1 else 2  # the sum over parts, and the gradient of the current part
  gradients = copies * on_device(trained)
  return {'parameters and moments': memory.arguments, 'gradients': gradients, 'activations': memory.temporaries - gradients}


def on_device(tree: Any) -> int:
  """Returns the bytes that described arrays take on one device. Arrays in the hosts' memory do not count."""
  return sum(_shard_bytes(x) for x in jax.tree.leaves(tree) if x.sharding.memory_kind != 'pinned_host')


def _shard_bytes(x: Any) -> int:
  shape = x.sharding.shard_shape(x.shape)
  size = x.dtype.itemsize
  for extent in shape:
    size *= extent
  return size


def _local_bytes(tree: Any, devices: int) -> int:
  return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree)) // devices


def _gathers_cache(programs: Programs, counted: Counted) -> bool:
  """Whether the result of an all-gather is as large as a layer's keys with all rows and columns."""
  shape, width = programs.model.config, programs.columns
  whole = shape.num_kv_heads * programs.slots * width * shape.head_dim
  gathered = (counted.once + counted.turn).gathered
  return any(width in its.dims and shape.head_dim in its.dims and its.elements >= whole for _, its in gathered)


def _holds_logits(programs: Programs, program: Program) -> bool:
  """Whether an array of logits has an entry for every column of the responses. Weights of the LM head do not count."""
  shape, mesh = programs.model.config, programs.mesh.shape
  widths = {shape.hidden_size, shape.hidden_size // mesh['fsdp']}
  columns = programs.sequences * programs.config.rollout.horizon
  return any(
    entries in its.dims and its.elements >= entries * columns and its.elements // entries not in widths
    for computation in program.computations.values()
    for instruction in computation.values()
    if 'logits' in instruction.source
    for its in instruction.shapes
    for entries in {shape.vocab_size, -(-shape.vocab_size // mesh['tensor'])}
  )


# ------------------------------------------------------------------------------------------------------------ what to print


def advice(checked: Checked, config: ml_collections.ConfigDict) -> str:
  """Returns what to change so that the program fits. The advice depends on the largest part of its memory."""
  part = max(checked.parts, key=lambda name: checked.parts[name])
  mesh = ', '.join(f'mesh.{axis} = {size}' for axis, size in checked.mesh.items() if axis != 'data')
  split = f'a larger mesh.fsdp or mesh.tensor ({mesh} now), on more devices where there are no more here'
  if part == 'caches':
    slots = config.rollout.slots or config.rollout.prompts * config.rollout.samples
    fix = f'fewer rollout.slots ({slots} now), a shorter rollout.horizon, or {split}'
  elif part == 'activations':
    rows = config.rollout.prompts * config.rollout.samples // config.learner.minibatches // config.learner.micro_batches
    over = checked.mesh['data'] * checked.mesh['fsdp']
    if rows > over:
      fix = f'learner.micro_batches = {config.learner.micro_batches * 2} or more ({rows} rows at a time on {over} shards now)'
    elif config.model.remat != 'full' and checked.name == 'update':
      fix = f"model.remat = 'full' ({config.model.remat!r} now)"
    else:
      fix = (
        f'learner.logit_chunk = {fewer_tokens(config)} or less ({config.learner.logit_chunk} now), or a larger mesh.tensor '
        f'({mesh} now)'
      )
  elif part == 'other temporaries':
    fix = f'fewer rollout.slots, more rollout.parts ({config.rollout.parts} now), or {split}'
  else:
    moments = part in ('parameters and moments', 'arrays kept beside it') and not config.learner.offload_optimizer
    fix = f'learner.offload_optimizer = True, or {split}' if moments else split
  return f'{part} take {checked.parts[part] / GIB:.2f} GiB; fix: {fix}'


def report(checked: Checked, config: ml_collections.ConfigDict, chip: Chip | None) -> list[str]:
  """Returns the report's lines about a program. Times are left out if the chip's figures are not known."""
  m, counted = checked.memory, checked.counted
  verdict = 'fits' if checked.fits else f'does not fit; {advice(checked, config)}'
  parts = ', '.join(f'{name} {size / GIB:.2f} GiB' for name, size in checked.parts.items())
  lines = [
    f'{checked.name}, mesh {checked.mesh}, a device:',
    f'  arguments {m.arguments / GIB:.2f} GiB, temporaries {m.temporaries / GIB:.2f} GiB, outputs {m.outputs / GIB:.2f} GiB',
    f'  of them {parts}',
    f'  peak {checked.peak / GIB:.2f} GiB of {checked.limit:g} GiB: {verdict}',
  ]
  once = 'once' if counted.unknown else 'a step'
  lines += _costs(once, counted.once, chip)
  if counted.unknown:
    lines += _costs(
      f'a turn of the {len(counted.unknown)} loops of unknown length: a refill and a decode step', counted.turn, chip
    )
  lines += ['  largest temporaries:']
  lines += [f'    {its.bytes / 2**20:10.1f} MiB  {its.shape}  {its.source}' for its in m.largest]
  if checked.gathers_cache:
    lines.append('  a whole layer of the cache is gathered on a device: fix: report this, it should not be')
  if checked.holds_logits:
    lines.append('  the logits of all columns stand in one array; fix: a smaller learner.logit_chunk')
  return lines


def _costs(when: str, cost: Cost, chip: Chip | None) -> list[str]:
  sent = ', '.join(f'{kind} {number / GIB:.3f} GiB' for kind, number in sorted(cost.sent.items())) or 'nothing'
  lines = [f'  {when}: {cost.flops / 1e12:.3f} TFLOP of products, {cost.bytes / GIB:.2f} GiB read and written, sent {sent}']
  if chip is not None:
    lines.append(f'    {_least(roofline(cost, chip))}')
  return lines


def _least(times: Roofline) -> str:
  each = ', '.join(f'{name} {1e3 * seconds:.2f}' for name, seconds in times._asdict().items())
  return f'at best {1e3 * times.seconds:.2f} ms, bound by {times.bound} (ms: {each})'

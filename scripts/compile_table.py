"""Compiles three sizes of Qwen2.5 for six TPU slices without running them: what fits, and what a step costs per chip.

  PYTHONPATH=.:.venv/tpu python scripts/compile_table.py   # an interrupted run resumes

It needs libtpu (`pip install libtpu`). It writes experiments/benchmarks/compile_check.json and compile_check.md. Every figure
comes from a compiled program, and no program runs. `--shapes`, `--slices`, `--attention` and `--programs` choose what is
compiled.
"""

import argparse
import importlib.metadata
import json
import pathlib
import sys
import tempfile
import time
from typing import Any

import ml_collections
from bench import report
from bench.shapes import CONFIGS

from espo_jax import compile_check
from espo_jax.compile_check import topology_mesh
from espo_jax.configs import default_config, validate

COMMAND = 'PYTHONPATH=.:.venv/tpu python scripts/compile_table.py'
PAGE = pathlib.Path(__file__).resolve().parents[1] / 'experiments/benchmarks/compile_check'
SLICES = {'v5p:2x2x2': 8, 'v5p:2x2x4': 16, 'v5p:4x4x4': 64, 'v5p:4x4x8': 128, 'v5e:4x4': 16, 'v6e:4x4': 16}  # chips per slice
TOO_LARGE = {('32B', 'v5e:4x4'), ('32B', 'v6e:4x4')}  # parameters, moments and gradients do not fit
SLOTS = {('32B', 'v5p:2x2x2'): 128}  # 256 otherwise
ROWS, MINIBATCHES = 512, 4
PROGRAMS = ('rollout', 'prepare', 'update')
ATTENTION = ('chunked', 'splash')


def experiment(shape: str, slice_: str, attention: str, folder: str) -> ml_collections.ConfigDict:
  """Returns the config: ESPO with a value head, horizon 8192, all chips along `fsdp`, one sequence per chip at a time."""
  pathlib.Path(folder, 'config.json').write_text(json.dumps(CONFIGS[shape]))
  c = default_config()
  c.stages = ('critic_warmup', 'rl')
  c.model.update(path=folder, scan_layers=True, remat='full', attention=attention, dtype='bfloat16', param_dtype='float32')
  c.rollout.update(prompts=ROWS // 4, samples=4, prompt_width=1024, horizon=8192, slots=SLOTS.get((shape, slice_), 256))
  c.learner.update(minibatches=MINIBATCHES, micro_batches=ROWS // MINIBATCHES // SLICES[slice_])
  c.mesh.fsdp = SLICES[slice_]
  return c


def compiled_entry(shape: str, slice_: str, attention: str, name: str) -> dict[str, Any]:
  """Compiles one program, and returns its memory, costs and checks."""
  with tempfile.TemporaryDirectory() as folder:
    config = experiment(shape, slice_, attention, folder)
    validate(config, data=False)
    mesh = topology_mesh(config, slice_)
    chip = compile_check.CHIPS[slice_.partition(':')[0]]
    start = time.perf_counter()
    checked = compile_check.check(compile_check.Programs(config, mesh), name, chip.memory)
    seconds = time.perf_counter() - start
  known = report.environment(COMMAND, [])
  costs = {'once': checked.counted.once} | ({'turn': checked.counted.turn} if checked.counted.unknown else {})
  return {
    'shape': shape,
    'slice': slice_,
    'attention': attention,
    'program': name,
    'commit': known['git']['commit'][:12],
    'processor': known['hardware']['cpu'],
    'seconds_to_compile': seconds,
    'mesh': checked.mesh,
    'slots': config.rollout.slots,
    'micro_batches': config.learner.micro_batches,
    'fits': checked.fits,
    'limit_gib': checked.limit,
    'bytes': {name: getattr(checked.memory, name) for name in ('arguments', 'temporaries', 'outputs')}
    | {'beside': checked.beside, 'peak': checked.peak},
    'parts': checked.parts,
    'cost': {
      when: {
        'flops': cost.flops,
        'bytes': cost.bytes,
        'sent': dict(cost.sent),
        'seconds': compile_check.roofline(cost, chip)._asdict(),
      }
      for when, cost in costs.items()
    },
    'gathers_cache': checked.gathers_cache,
    'holds_logits': checked.holds_logits,
    'largest': [{'bytes': its.bytes, 'shape': str(its.shape), 'source': its.source} for its in checked.memory.largest[:4]],
  }


def page(results: dict[str, Any]) -> list[str]:
  """Returns the page with its tables."""
  entries = results['entries']
  commits, processors = (sorted({entry[name] for entry in entries}) for name in ('commit', 'processor'))
  lines = [
    '# Programs of training compiled for TPU slices',
    '',
    f'    {results["command"]}',
    '',
    f'Commit {", ".join(commits)}; libtpu {results["libtpu"]}, on one core of {" or ".join(processors)}. '
    '**Nothing here has run on a TPU.** Every figure is computed from a compiled program. The times are those of compute, '
    'memory and links alone at their published peaks, and the longest of the three is the least time of a step. '
    '`espo_jax/compile_check/cost.py` says how they are counted.',
    '',
    f'The programs are those of ESPO for Qwen2.5 shapes with a value head. A step has {ROWS} rows with prompts of 1024 and '
    f'responses of 8192 tokens, all of full length. An update has {ROWS // MINIBATCHES} rows, and the log-probability pass '
    f'{ROWS}. Parameters and moments are in float32, activations in bfloat16. Layers are scanned, with '
    "`model.remat = 'full'`. The column `attention` has `model.attention`, whose default takes `splash` on a TPU. All chips "
    'are along `fsdp`, with one sequence per chip at a time (`learner.micro_batches` depends on the number of chips). All '
    'figures are per chip. The column `beside` has the moments, which training keeps on the chip while the program runs.',
    '',
    '32B on v5e 4x4 and v6e 4x4 is left out. Parameters, moments and gradients take 20 bytes per parameter, which is 610 GiB, '
    'and these slices have 256 and 512 GiB.',
  ]
  missing: dict[str, list[str]] = {}
  done = {_key(entry) for entry in entries}
  for shape, slice_, attention, name in (key for key in _all() if key not in done):
    missing.setdefault(f'{shape} {name}, {attention}', []).append(slice_.replace(':', ' '))
  if missing:
    lines += ['', 'Not compiled yet: ' + '; '.join(f'{what} on {", ".join(where)}' for what, where in missing.items()) + '.']
  for program, title in (('update', 'Update'), ('prepare', 'Log-probability pass'), ('rollout', 'Rollout')):
    found = [entry for entry in entries if entry['program'] == program]
    if found:
      lines += ['', f'## {title}', '', *(_rollout(found) if program == 'rollout' else _whole(found))]
  return [*lines, '', '## All programs', '', *_verdicts(entries)]


def _verdicts(entries: list[dict[str, Any]]) -> list[str]:
  """Returns the findings about all programs, with the exceptions."""

  def where(bad: list[dict[str, Any]]) -> str:
    return (
      ', '.join(f'{entry["program"]} of {entry["shape"]} on {entry["slice"]}, {entry["attention"]}' for entry in bad) or 'none'
    )

  shares: dict[str, list[float]] = {}
  for entry in entries:
    shares.setdefault(entry['slice'].partition(':')[0], []).append(_share(entry, entries))
  ranges = ', '.join(f'{min(found):.4f} to {max(found):.4f} on {chip}' for chip, found in shares.items())
  return [
    f'- Compiled programs: {len(entries)} of {len(_all())}. Programs that do not fit: '
    f'{where([entry for entry in entries if not entry["fits"]])}.',
    "- A chip's products times the number of chips, relative to the first slice of the same shape (for a rollout, the products "
    f'per loop iteration and slot): {ranges}.',
    "- All-gathers whose result is as large as a layer's keys of all rows and columns: "
    f'{where([entry for entry in entries if entry["gathers_cache"]])}.',
    '- Arrays with logits over the vocabulary for every column of the responses: '
    f'{where([entry for entry in entries if entry["holds_logits"]])}.',
  ]


def _share(entry: dict[str, Any], entries: list[dict[str, Any]]) -> float:
  """Returns the products of all chips, relative to those on the first slice that this shape was compiled for."""

  def products(its: dict[str, Any]) -> float:
    rollout = its['program'] == 'rollout'
    flops = its['cost']['turn' if rollout else 'once']['flops']
    return flops * SLICES[its['slice']] / (its['slots'] if rollout else 1)

  same = ('shape', 'attention', 'program')
  first = next(its for its in entries if all(its[name] == entry[name] for name in same))
  return products(entry) / products(first)


def _memory(entry: dict[str, Any]) -> list[str]:
  sizes = [f'{entry["bytes"][name] / compile_check.GIB:.1f}' for name in ('arguments', 'temporaries', 'beside', 'peak')]
  return [
    entry['shape'],
    entry['slice'].replace(':', ' '),
    entry['attention'],
    *sizes,
    f'{entry["limit_gib"]:g}',
    'yes' if entry['fits'] else '**no**',
  ]


def _time(cost: dict[str, Any], unit: float) -> list[str]:
  bound = max(cost['seconds'], key=lambda name: cost['seconds'][name])
  return [f'{unit * cost["seconds"][name]:.3g}' for name in ('compute', 'memory', 'links')] + [bound]


def _row(cells: list[str]) -> str:
  return '| ' + ' | '.join(cells) + ' |'


def _whole(entries: list[dict[str, Any]]) -> list[str]:
  heads = [
    '',
    'slice',
    'attention',
    'arguments, GiB',
    'temporaries',
    'beside',
    'peak',
    'memory of the chip',
    'fits',
    'PFLOP',
    'times chips, relative to the first slice',
    'sent, GiB',
  ]
  heads += ['compute, s', 'memory', 'links', 'bound by', 'compiled in, s']
  lines = [_row(heads), '|' + '---|' * len(heads)]
  for entry in entries:
    cost = entry['cost']['once']
    sent = sum(cost['sent'].values()) / compile_check.GIB
    cells = [
      f'{cost["flops"] / 1e15:.3f}',
      f'{_share(entry, entries):.4f}',
      f'{sent:.1f}',
      *_time(cost, 1.0),
      f'{entry["seconds_to_compile"]:.0f}',
    ]
    lines.append(_row(_memory(entry) + cells))
  return lines


def _rollout(entries: list[dict[str, Any]]) -> list[str]:
  heads = [
    '',
    'slice',
    'attention',
    'arguments, GiB',
    'temporaries',
    'beside',
    'peak',
    'memory of the chip',
    'fits',
    'slots',
    'caches, GiB',
    'least time of prefill, s',
  ]
  heads += [
    'products per iteration times chips, relative to the first slice',
    'a decode step and a refill: compute, ms',
    'memory',
    'links',
    'bound by',
    'compiled in, s',
  ]
  lines = [_row(heads), '|' + '---|' * len(heads)]
  for entry in entries:
    cells = [f'{entry["slots"]}', f'{entry["parts"]["caches"] / compile_check.GIB:.1f}']
    cells += [f'{max(entry["cost"]["once"]["seconds"].values()):.2f}', f'{_share(entry, entries):.4f}']
    cells += _time(entry['cost']['turn'], 1e3)
    lines.append(_row([*_memory(entry), *cells, f'{entry["seconds_to_compile"]:.0f}']))
  return lines


def write(entries: list[dict[str, Any]]) -> None:
  """Writes both files."""
  known = report.environment(COMMAND, [])
  del known['hardware']  # each entry names the processor that compiled it
  results = known | {'libtpu': importlib.metadata.version('libtpu'), 'entries': entries}
  report.write(PAGE, results, page(results))


def _entries() -> list[dict[str, Any]]:
  """Reads the entries of the programs that have been compiled."""
  path = PAGE.with_suffix('.json')
  return json.loads(path.read_text())['entries'] if path.exists() else []


def _all() -> list[tuple[str, str, str, str]]:
  """Returns shape, slice, form of attention and name of every program of the table."""
  pairs = [(shape, slice_) for shape in CONFIGS for slice_ in SLICES if (shape, slice_) not in TOO_LARGE]
  return [(*pair, attention, name) for pair in pairs for attention in ATTENTION for name in PROGRAMS]


def _key(entry: dict[str, Any]) -> tuple[str, str, str, str]:
  return entry['shape'], entry['slice'], entry['attention'], entry['program']


def main(argv: list[str]) -> None:
  """Runs the command."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--shapes', nargs='+', default=list(CONFIGS), choices=CONFIGS)
  parser.add_argument('--slices', nargs='+', default=list(SLICES), choices=SLICES)
  parser.add_argument('--attention', nargs='+', default=list(ATTENTION), choices=ATTENTION)
  parser.add_argument('--programs', nargs='+', default=list(PROGRAMS), choices=PROGRAMS)
  options = parser.parse_args(argv)
  for key in _all():
    shape, slice_, attention, name = key
    asked = shape in options.shapes and slice_ in options.slices and attention in options.attention and name in options.programs
    if not asked or key in {_key(entry) for entry in _entries()}:
      continue
    entry = compiled_entry(*key)
    print(*key, f'{entry["seconds_to_compile"]:.0f} s', 'fits' if entry['fits'] else 'does not fit', flush=True)
    entries = sorted([*_entries(), entry], key=lambda entry: _all().index(_key(entry)))
    write(entries)
  write(_entries())


if __name__ == '__main__':
  main(sys.argv[1:])

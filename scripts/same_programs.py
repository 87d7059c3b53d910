"""Whether a change of the code left the programs and the numbers of a training as they were.

  python scripts/same_programs.py record /tmp/before            # in a checkout of the commit before
  python scripts/same_programs.py record /tmp/after             # in this one
  python scripts/same_programs.py compare /tmp/before /tmp/after

`record` runs small trainings, which between them have every stage, and compiles the programs of the 7B config for a TPU slice
that is not there. It keeps the StableHLO of every program that is compiled on the way, and each training's metrics and
evaluations. `compare` holds two such records against each other. Names of functions and places in the source may change, and
so may seconds. It ends with status 1 where anything else differs.

The commands run in the current folder, which is a checkout of the code to be recorded.
"""

import argparse
import collections
import difflib
import json
import os
import pathlib
import re
import subprocess
import sys

from bench.shapes import CONFIGS

SHORT = ('--config.warm_start.steps=4', '--config.warm_start.warmup_steps=1', '--config.learner.updates=4')
TRAININGS = {
  'quickstart': ('--config=experiments/quickstart.py:smoke',),
  'early_exits': ('--config=experiments/early_exits.py:smoke',),
  'groups': ('--config=experiments/groups.py', '--config.model.num_layers=1', '--config.eval.problems=16', *SHORT),
}
SLICE = ('--config.mesh.fsdp=2', '--config.mesh.tensor=4', '--config.model.scan_layers', '--topology=v5p:2x2x2')
OF_THE_PROCESS = ('seconds', 'tokens_per_second', 'process/')
RESULTS = ('metrics.jsonl', 'evaluation.json', 'curve.json', 'examples.json')


def record(folder: pathlib.Path) -> None:
  """Run everything and keep its programs under `folder/programs` and its results under `folder/results`."""
  folder.mkdir(parents=True)
  for name, flags in TRAININGS.items():
    run = folder / 'runs' / name
    _run(name, folder, 'espo_jax.train', *flags, f'--workdir={run}', '--compilation_cache_dir=')
    for path in sorted(run.rglob('*')):
      if path.name in RESULTS:
        kept = folder / 'results' / name / path.relative_to(run)
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(_without_seconds(path.read_text()))
  model = folder / 'qwen2_7b'
  model.mkdir()
  (model / 'config.json').write_text(json.dumps(CONFIGS['7B']))
  config = ('--config=experiments/espo_r1_distill_qwen_7b.py', f'--config.model.path={model}', *SLICE)
  _run('7b', folder, 'espo_jax.compile_check', *config)


def compare(before: pathlib.Path, after: pathlib.Path) -> bool:
  """Print what differs, program by program and file by file, and say whether nothing does."""
  same = True
  for name in (*TRAININGS, '7b'):
    counts = [_programs(folder / 'programs' / name) for folder in (before, after)]
    for one, other, word in ((*counts, 'before'), (*counts[::-1], 'after')):
      for program, times in (one - other).items():
        same = False
        print(f'{name}: only {word}, {times} times: {program.splitlines()[0]}')
    gone, new = counts[0] - counts[1], counts[1] - counts[0]
    for a, b in zip(sorted(gone, key=len), sorted(new, key=len), strict=False):
      print('\n'.join([*difflib.unified_diff(a.splitlines(), b.splitlines(), 'before', 'after', lineterm='', n=1)][:20]))
    print(f'{name}: {counts[0].total()} programs before, {counts[1].total()} after')
  for path in sorted(
    {p.relative_to(f / 'results') for f in (before, after) for p in (f / 'results').rglob('*') if p.is_file()}
  ):
    texts = [(folder / 'results' / path) for folder in (before, after)]
    if not all(text.exists() for text in texts) or texts[0].read_text() != texts[1].read_text():
      same = False
      print(f'{path}: differs')
  return same


def _run(name: str, folder: pathlib.Path, module: str, *flags: str) -> None:
  """A command whose programs go to `folder/programs/name`."""
  environment = os.environ | {
    'JAX_DUMP_IR_TO': str(folder / 'programs' / name),
    'JAX_DUMP_IR_MODES': 'stablehlo',
    'JAX_INCLUDE_DEBUG_INFO_IN_DUMPS': '0',  # no places in the source
    'JAX_PLATFORMS': 'cpu',
    'PYTHONPATH': os.pathsep.join([str(pathlib.Path.cwd()), str(pathlib.Path(sys.prefix) / 'tpu')]),
  }
  print(name, flush=True)
  subprocess.run([sys.executable, '-m', module, *flags], env=environment, check=True, stdout=subprocess.DEVNULL)


def _programs(folder: pathlib.Path) -> collections.Counter[str]:
  """The programs in a folder, each as often as it was compiled; operations outside of a program are left out."""
  texts = (path.read_text() for path in folder.rglob('*.mlir'))
  return collections.Counter(_normal(text) for text in texts if text.count('\n') > 20)


def _normal(text: str) -> str:
  """A program without its name and those of its results; its functions are numbered in the order in which they are named."""
  text = re.sub(r'jax\.(result|arg)_info = "[^"]*"', '', re.sub(r'module @[\w.$<>-]+', 'module', text))
  number: dict[str, str] = collections.defaultdict(lambda: f'@f{len(number)}')
  return re.sub(r'(?<!custom_call )@[\w.$<>-]+', lambda found: number[found[0]], text)


def _without_seconds(text: str) -> str:
  """The lines of a file of results, in which no figure is of the process that wrote them."""

  def stripped(x):
    if isinstance(x, dict):
      return {name: stripped(value) for name, value in x.items() if not name.startswith(OF_THE_PROCESS)}
    return [stripped(y) for y in x] if isinstance(x, list) else x

  try:
    return json.dumps(stripped(json.loads(text)), indent=1)
  except json.JSONDecodeError:
    return '\n'.join(json.dumps(stripped(json.loads(line))) for line in text.splitlines())


def main() -> None:
  """The command."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  commands = parser.add_subparsers(required=True, dest='command')
  commands.add_parser('record').add_argument('folder', type=pathlib.Path)
  compared = commands.add_parser('compare')
  compared.add_argument('before', type=pathlib.Path)
  compared.add_argument('after', type=pathlib.Path)
  args = parser.parse_args()
  if args.command == 'record':
    record(args.folder.absolute())
  elif not compare(args.before, args.after):
    sys.exit(1)
  else:
    print('the same')


if __name__ == '__main__':
  main()

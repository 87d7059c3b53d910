"""Checks that a change of the code altered neither the compiled programs nor the numbers of small trainings.

  python scripts/same_programs.py record /tmp/before            # in a checkout of the old commit
  python scripts/same_programs.py record /tmp/after             # in a checkout of the new one
  python scripts/same_programs.py compare /tmp/before /tmp/after

`record` runs small trainings that together have every stage, and compiles the programs of the 7B config for a TPU slice. It
saves the StableHLO of every program that these compile, and each training's metrics and evaluations. `compare` compares two
such records. Names of functions, places in the source, and seconds may differ. If anything else differs, its exit status is 1.

`record` must be started in the root of the checkout to be recorded.
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
  """Runs all trainings, and saves programs under `folder/programs` and results under `folder/results`."""
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
  """Prints the programs and files that differ, and returns whether there are none."""
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
  """Runs a command that writes its programs to `folder/programs/name`."""
  environment = os.environ | {
    'JAX_DUMP_IR_TO': str(folder / 'programs' / name),
    'JAX_DUMP_IR_MODES': 'stablehlo',
    'JAX_INCLUDE_DEBUG_INFO_IN_DUMPS': '0',  # leaves out places in the source
    'JAX_PLATFORMS': 'cpu',
    'PYTHONPATH': os.pathsep.join([str(pathlib.Path.cwd()), str(pathlib.Path(sys.prefix) / 'tpu')]),
  }
  print(name, flush=True)
  subprocess.run([sys.executable, '-m', module, *flags], env=environment, check=True, stdout=subprocess.DEVNULL)


def _programs(folder: pathlib.Path) -> collections.Counter[str]:
  """Counts the equal programs in a folder, without those of single operations."""
  texts = (path.read_text() for path in folder.rglob('*.mlir'))
  return collections.Counter(_normal(text) for text in texts if text.count('\n') > 20)


def _normal(text: str) -> str:
  """Removes the names of a program and its results, and numbers its functions in the order of their first mention."""
  text = re.sub(r'jax\.(result|arg)_info = "[^"]*"', '', re.sub(r'module @[\w.$<>-]+', 'module', text))
  number: dict[str, str] = collections.defaultdict(lambda: f'@f{len(number)}')
  return re.sub(r'(?<!custom_call )@[\w.$<>-]+', lambda found: number[found[0]], text)


def _without_seconds(text: str) -> str:
  """Removes the figures of a file of results that depend on the process, such as seconds."""

  def stripped(x):
    if isinstance(x, dict):
      return {name: stripped(value) for name, value in x.items() if not name.startswith(OF_THE_PROCESS)}
    return [stripped(y) for y in x] if isinstance(x, list) else x

  try:
    return json.dumps(stripped(json.loads(text)), indent=1)
  except json.JSONDecodeError:
    return '\n'.join(json.dumps(stripped(json.loads(line))) for line in text.splitlines())


def main() -> None:
  """Runs the command."""
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

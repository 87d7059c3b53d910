"""Break something on purpose in many ways, and count after how many all is well.

  PYTHONPATH=. python scripts/drill.py NAME [--count=40] [--seed=0] [--folder=FOLDER] [--page=experiments/reliability]

Each module of scripts/drills/ that has `AIM`, `COUNT` and `run` is a drill; its docstring says what is done and what counts as
well. Failures are printed as they occur. With --page the result replaces the drill's entry in PAGE.json and its row in PAGE.md.
The exit status is 1 if a case failed, or if there was none.
"""

import argparse
import importlib
import pathlib
import sys
import tempfile
import time
from collections.abc import Sequence

from drills import record


def drills() -> list[str]:
  """Returns the names of all drills."""
  files = (pathlib.Path(__file__).parent / 'drills').glob('*.py')
  return sorted(file.stem for file in files if '\nAIM = ' in file.read_text())


def main(argv: Sequence[str] | None = None) -> int:
  """Runs one drill, and returns the exit status."""
  argv = list(sys.argv[1:] if argv is None else argv)
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('drill', choices=drills())
  parser.add_argument('--count', type=int, help="the number of cases; the drill's own if it is not given")
  parser.add_argument('--seed', type=int, default=0, help='what the cases are drawn from')
  parser.add_argument('--folder', type=pathlib.Path, help='an empty folder for the runs; a temporary one if it is not given')
  parser.add_argument('--page', type=pathlib.Path, help='the page that gets the result, without its suffix')
  module = importlib.import_module(f'drills.{argv[0]}') if argv[:1] and argv[0] in drills() else None
  options = getattr(module, 'OPTIONS', {})
  for name, text in options.items():
    parser.add_argument(f'--{name}', default='', help=text)
  args = parser.parse_args(argv)
  chosen = {name: getattr(args, name) for name in options}
  start, cases, figures = time.monotonic(), [], {}
  with tempfile.TemporaryDirectory(prefix='drill-') as temporary:
    folder = args.folder or pathlib.Path(temporary)
    folder.mkdir(parents=True, exist_ok=True)
    count = module.COUNT if args.count is None else args.count
    for case in module.run(folder, count, args.seed, figures, **chosen):
      cases.append(case)
      if not case.passed:
        print(f'FAILED {case.name}: {case.note}', flush=True)
  told = [word for word in argv if not word.startswith('--folder=')]  # where the runs lie makes no difference
  found = record.entry(args.drill, module.AIM, told, cases, figures, time.monotonic() - start)
  if args.page:
    record.write(args.page, found)
  print(f'{args.drill}: {found["passed"]} of {found["cases"]} held in {found["seconds"]} s; {found["figures"]}')
  return int(not cases or found['passed'] < found['cases'])


if __name__ == '__main__':
  sys.exit(main())

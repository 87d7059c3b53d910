"""Write one HTML page about a run, or about several beside each other: results, curves, and rollouts token by token.

  python -m espo_jax.report --workdir=runs/quickstart
  python -m espo_jax.report --workdir runs/a runs/b --output=runs/both.html
  python -m espo_jax.report --compare runs/quickstart/arms/never runs/quickstart/arms/espo

The page is one file that needs no network. espo_jax.train writes it at the end of a run. While a run goes on, --live writes it
again every minute, and a page that is open loads itself again.

--compare writes no page. It prints a table of paired differences between two runs, two arms, or two folders of runs that have
the same seeds.
"""

import argparse
import functools
import pathlib
import sys
import time
from collections.abc import Sequence

from espo_jax.commands import CommandParser, lower_flags, machine_errors
from espo_jax.report.compare import comparison
from espo_jax.report.page import MOST_ROLLOUTS, write_page
from espo_jax.report.runs import ReportError, read_runs

_EVERY = 60  # seconds


def main(argv: Sequence[str] | None = None) -> None:
  """Runs the command."""
  parser = CommandParser(
    prog='python -m espo_jax.report', description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  asked = parser.add_mutually_exclusive_group(required=True)
  asked.add_argument(
    '--workdir', nargs='+', action='extend', type=pathlib.Path, help='the folders of runs, or folders that contain them'
  )
  asked.add_argument(
    '--compare', nargs=2, type=pathlib.Path, metavar=('FIRST', 'SECOND'), help='two runs, arms or folders of runs to compare'
  )
  parser.add_argument('--output', type=pathlib.Path, help='the file to write; by default report.html in the first folder')
  parser.add_argument(
    '--rollouts',
    type=int,
    default=MOST_ROLLOUTS,
    help='the most rollouts that the page has of all runs together; by default %(default)s',
  )
  parser.add_argument('--live', action='store_true', help='write the page again every minute until all runs are finished')
  args = parser.parse_args(argv)
  if args.rollouts < 0:
    sys.exit(f'error: --rollouts={args.rollouts}: out of range; fix: 0 or more')
  if args.compare and (args.output or args.live or args.rollouts != MOST_ROLLOUTS):
    sys.exit('error: --compare writes no page; fix: leave out --output, --rollouts and --live')
  try:
    with machine_errors(functools.partial(_lower, args.rollouts)):
      if args.compare:
        print(comparison(*args.compare))
        return
      output = args.output or args.workdir[0] / 'report.html'
      while True:
        runs = read_runs(args.workdir)
        going = args.live and not all(run.finished for run in runs)
        print(f'wrote {write_page(runs, output, most=args.rollouts, every=_EVERY if going else None)}', flush=True)
        if not going:
          return
        time.sleep(_EVERY)
  except ReportError as error:
    sys.exit(f'error: {error}')
  except KeyboardInterrupt:
    sys.exit(0)


def _lower(rollouts: int, phase: str) -> str:
  """Returns what to change about a page that ran out of memory."""
  del phase
  return lower_flags({'rollouts': str(rollouts // 4) if rollouts >= 4 else None}, 'fewer folders')


if __name__ == '__main__':
  main()

"""Compare arms over seeds and write the table, the plots and the numbers. The arms of a seed start from one warm start.

  python -m espo_jax.sweep --sweep=experiments/sweeps/NAME.py --workdir=runs/NAME --output=experiments/results/NAME

The same command resumes a comparison that was interrupted and skips the runs that are done. Once all runs are done it writes
NAME.md, NAME.json and NAME.png. The command of each run is printed and stored in NAME.json. On the same processor with as many
threads, that command alone gives the same numbers. NAME.json names the processor and the number of threads. With --seeds
several processes can share the work.
"""

import argparse
import os
import pathlib
import shlex
import sys
from collections.abc import Sequence

from absl import logging

from espo_jax import monitor, sweep
from espo_jax.commands import CommandParser, lower_fields, machine_errors
from espo_jax.compile_check.plan import DoesNotFit
from espo_jax.configs import ConfigError
from espo_jax.learner import CheckpointError
from espo_jax.parallel.storage import read_json
from espo_jax.rewards import RewardError
from espo_jax.stages.loop import Interrupted, TrainingFailed, going_on
from espo_jax.sweep.page import body, check_page, record_of, write_page
from espo_jax.tasks import DataError
from espo_jax.train import keep_compiled


def compare_arms(file: str, workdir: pathlib.Path, output: pathlib.Path, seeds: Sequence[int] | None = None) -> dict | None:
  """Run what is missing, and write the report once all runs are done.

  Args:
    file: The comparison's file.
    workdir: The folder that holds the folders of the runs.
    output: The path of the page, the numbers and the picture, without their suffixes.
    seeds: The seeds to run now; None for all.

  Returns:
    The content of NAME.json; None while runs are missing.

  Raises:
    ConfigError: The comparison cannot run. It is raised before anything is run.
    Interrupted: A signal interrupted a run. The same call resumes it.
    TrainingFailed: The stages that the arms of a seed share could not be trained.
    CheckpointError: A run has checkpoints and none is complete.
    DataError: A data file cannot be used.
    RewardError: A reward that reads text failed.
  """
  spec, title = sweep.load_sweep(file)
  if unknown := sorted(set(seeds or ()) - set(spec.seeds)):
    raise ConfigError([f'--seeds: {unknown[0]} is none of the seeds {spec.seeds} of {file}; fix: some of them'])
  check_page(monitor.ending(output, '.md'))
  if spec.search is not None and seeds is not None:
    raise ConfigError([f'--seeds beside the search of {file}: an arm is proposed from all seeds; fix: leave --seeds out'])
  growing = None if spec.search is None else sweep.Growing(spec)
  runs = sweep.plan(spec, workdir)
  sweep.run_all(spec, [run for run in runs if seeds is None or run.seed in seeds])
  while growing is not None and growing.grow(runs):
    spec, before = growing.sweep, {run.workdir: run for run in runs}
    runs = sweep.plan(spec, workdir)
    sweep.run_all(spec, [run for run in runs if run.workdir not in before], beside=list(before.values()))
  states = [sweep.Status.of(run).state for run in runs]
  if missing := sum(state not in sweep.FINAL for state in states):
    print(f'{len(runs) - missing} of {len(runs)} runs are done; the report follows when all are')
    return None
  outcomes = sweep.collect(spec, runs)
  compared = sweep.compare(spec, outcomes)
  table = sweep.format_comparison(
    spec, compared, {arm: [sweep.Status.of(run) for run in runs if arm in run.arms] for arm in spec.arms}
  )
  command = f'python -m espo_jax.sweep --sweep={shlex.quote(file)} --workdir={workdir} --output={output}'
  told = [path for run in runs if (path := run.workdir / 'environment.json').exists()]  # a run that does not fit writes none
  environments = [read_json(path) for path in told]
  record = record_of(spec, title, command, runs, environments, compared)
  if growing is not None:
    record['search'] = growing.record(runs)
  picture = monitor.ending(output, '.png')
  monitor.atomic_write_text(monitor.ending(output, '.json'), monitor.to_json(record, indent=1) + '\n')
  write_page(monitor.ending(output, '.md'), title, body(spec, record, table, picture.name))
  print(f'{table}\nwrote {monitor.ending(output, ".md")}, {monitor.ending(output, ".json")}')
  with monitor.spared(picture):
    from espo_jax.monitor import arms  # matplotlib is slow to import and only needed here

    runs_of = {arm: list(outcomes[arm].values()) for arm in spec.arms}
    arms.plot_arms(picture, runs_of, spec.baseline, spec.curves, spec.scatter, spec.over)
    print(f'wrote {picture}')
  return record


def _lower(file: str, phase: str) -> str:
  """Returns what to change about a comparison that ran out of memory: fields in its file, because it has no such flags."""
  spec, _ = sweep.load_sweep(file)
  config = sweep.configured(spec.base, spec.common)
  return f'in common of {file}: {lower_fields(config, phase, "{!r}: {!r}")}'


def _seeds(text: str) -> list[int]:
  try:
    return [int(seed) for seed in text.split(',')]
  except ValueError as error:
    raise argparse.ArgumentTypeError(f'--seeds={text}: no seeds; fix: whole numbers, as in --seeds=0,2') from error


def main(argv: Sequence[str] | None = None) -> None:
  """Runs the command."""
  parser = CommandParser(
    prog='python -m espo_jax.sweep', description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--sweep', required=True, help='a Python file with get_sweep(), such as experiments/sweeps/quickstart.py')
  parser.add_argument('--workdir', required=True, type=pathlib.Path, help='where the runs go, a folder for each')
  parser.add_argument('--output', type=pathlib.Path, help='the report, without suffix; by default WORKDIR/report')
  parser.add_argument('--seeds', type=_seeds, help='run these alone, as in 0,2')
  parser.add_argument(
    '--compilation_cache_dir',
    default=os.path.expanduser('~/.cache/espo_jax'),
    help='compiled programs are kept here; empty for nowhere',
  )
  args = parser.parse_args(argv)
  logging.set_verbosity(logging.WARNING)  # orbax logs every file at INFO
  keep_compiled(args.compilation_cache_dir)
  try:
    with machine_errors(lambda phase: _lower(args.sweep, phase)):
      compare_arms(args.sweep, args.workdir, args.output or args.workdir / 'report', args.seeds)
  except Interrupted as stopped:
    print(going_on(stopped, 'espo_jax.sweep', sys.argv[1:] if argv is None else argv), file=sys.stderr)
  except DoesNotFit as error:
    sys.exit(f'error: in common of {args.sweep}: {error.told("{!r}: {!r}", ", ")}')
  except (CheckpointError, ConfigError, DataError, RewardError, TrainingFailed) as error:
    sys.exit(f'error: {error}')


if __name__ == '__main__':
  main()

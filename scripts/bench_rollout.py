"""Measures the rollout against a masked scan, transformers and tunix on rows of the same forced lengths.

  scripts/bench_rollout.sh [options]   # makes the environments, then runs this

It writes experiments/benchmarks/rollout.json and rollout.md. The cases are `skewed` lengths, `equal` lengths, the cost of the
stop `rule`, and the time that `stopped` rows save. transformers and tunix run in environments of their own. The variables
TRANSFORMERS_PYTHON and TUNIX_PYTHON name other interpreters for them.
"""

import argparse
import dataclasses
import os
import pathlib
import sys
import tempfile
from typing import Any

import numpy as np
from bench import forced, measure, report, workload

ROOT = pathlib.Path(__file__).resolve().parents[1]
CASES = ('skewed', 'equal', 'rule', 'stopped')
SIGMA = 0.6  # the standard deviation of the logarithm of a length


def parse(argv: list[str]) -> argparse.Namespace:
  """Parses the options."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)

  def names(known: tuple[str, ...]):
    def split(text: str) -> list[str]:
      if unknown := set(text.split(',')) - set(known):
        raise argparse.ArgumentTypeError(f'{min(unknown)!r} is none of {", ".join(known)}')
      return text.split(',')

    return split

  parser.add_argument('--cases', type=names(CASES), default=','.join(CASES), help='a list with commas')
  parser.add_argument(
    '--contenders', type=names(tuple(measure.CONTENDERS)), default=','.join(measure.CONTENDERS), help='a list with commas'
  )
  parser.add_argument('--rows', type=int, default=1000)
  parser.add_argument(
    '--samples', type=int, default=1, help='rows per prompt, all of the same length; a divisor of the three numbers of rows'
  )
  parser.add_argument('--equal_rows', type=int, default=512, help='rows of the case `equal`')
  parser.add_argument('--rule_rows', type=int, default=256, help='rows of the case `rule`')
  parser.add_argument('--slots', type=int, default=64, help='the rows that every contender decodes at a time')
  parser.add_argument('--horizon', type=int, default=256)
  parser.add_argument('--prompt_tokens', type=int, default=32)
  parser.add_argument('--repeats', type=int, default=3)
  parser.add_argument('--rule_repeats', type=int, default=12)
  parser.add_argument('--seed', type=int, default=0)
  parser.add_argument('--vocab_size', type=int, default=4096)
  parser.add_argument('--hidden_size', type=int, default=384, help='a multiple of 192')
  parser.add_argument('--layers', type=int, default=6)
  parser.add_argument(
    '--output', type=pathlib.Path, default=ROOT / 'experiments/benchmarks/rollout', help='the path of the page without suffix'
  )
  args = parser.parse_args(argv)
  for name in ('rows', 'equal_rows', 'rule_rows'):
    if getattr(args, name) % args.samples:
      parser.error(f'--{name} {getattr(args, name)} is no multiple of --samples {args.samples}; fix: make it one')
  return args


def find_pythons(contenders: list[str]) -> dict[str, str]:
  """Returns the interpreter of each environment that the contenders need."""
  pythons = {'ours': sys.executable}
  for name in {measure.CONTENDERS[contender][0] for contender in contenders} - {'ours'}:
    pythons[name] = os.environ.get(f'{name.upper()}_PYTHON', str(ROOT / f'.venv-{name}/bin/python'))
    if not pathlib.Path(pythons[name]).exists():
      raise SystemExit(
        f'error: {pythons[name]} is missing; fix: scripts/bench_rollout.sh makes it, {name.upper()}_PYTHON names another, '
        '--contenders=espo_jax,masked_scan does without'
      )
  return pythons


def run(args: argparse.Namespace, bench: measure.Bench) -> dict[str, Any]:
  """Runs the chosen cases, and returns the result of each."""

  def rows(lengths: np.ndarray) -> workload.Workload:
    of_prompts = lengths[: len(lengths) // args.samples]
    return workload.make(
      of_prompts,
      slots=args.slots,
      horizon=args.horizon,
      width=args.prompt_tokens,
      vocabulary=args.vocab_size,
      seed=args.seed,
      samples=args.samples,
    )

  lengths = workload.log_normal(max(args.rows, args.rule_rows), args.horizon / 2, args.horizon, SIGMA, args.seed)
  skewed = rows(lengths[: args.rows])
  cases: dict[str, Any] = {}
  for case in args.cases:
    if case == 'skewed':
      cases[case] = measure.compare(bench, skewed, case, args.contenders, args.repeats)
    elif case == 'equal':
      equal = rows(np.full(args.equal_rows, args.horizon // 2, np.int32))
      cases[case] = measure.compare(bench, equal, case, args.contenders, args.repeats)
    elif case == 'rule':
      cases[case] = measure.cost_of_rule(bench, rows(lengths[: args.rule_rows]), args.rule_repeats)
    else:
      cases[case] = measure.saved_by_stops(bench, skewed, args.seed, args.repeats)
  return cases


def main(argv: list[str]) -> None:
  """Runs the command."""
  args = parse(argv)
  config = forced.qwen2_shaped(args.vocab_size, args.hidden_size, args.layers)
  pythons = find_pythons(args.contenders)
  with tempfile.TemporaryDirectory() as folder:
    bench = measure.Bench(pythons, pathlib.Path(folder) / 'model', pathlib.Path(folder), args.seed)
    parameters = forced.write_model(bench.model, config, args.seed)
    cases = run(args, bench)
  results = report.environment('scripts/bench_rollout.sh', argv) | {
    'seeds': {'model': args.seed, 'workload': args.seed, 'sampling': args.seed},
    'model': dataclasses.asdict(config) | {'parameters': parameters},
    'repeats': args.repeats,
    'length_sigma': SIGMA,
    'cases': cases,
  }
  lines = report.rollout(results)
  report.write(args.output, results, lines)
  print('\n'.join(lines))


if __name__ == '__main__':
  main(sys.argv[1:])

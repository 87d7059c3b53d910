"""Measures how the rollout's time depends on rows, slots, horizon and vocabulary, one at a time.

  PYTHONPATH=. python scripts/bench_scaling.py [options]   # under 8 minutes on 2 cores

It writes experiments/benchmarks/scaling.json and scaling.md. The end token forces the lengths, as in bench_rollout.py. Lengths
do not depend on the horizon, so the time should not depend on it either.
"""

import argparse
import dataclasses
import pathlib
import sys
import time
from typing import Any

import jax
import numpy as np
from bench import forced, measure, report, workload

from espo_jax import stops
from espo_jax.model import ModelConfig, Params, init

ROOT = pathlib.Path(__file__).resolve().parents[1]
SWEEPS = {
  'rows': (250, 500, 1000, 2000),
  'slots': (8, 16, 32, 64, 128),
  'horizon': (256, 512, 1024, 2048),
  'vocabulary': (1024, 4096, 16384, 65536),
}
BASE = {'rows': 500, 'slots': 32, 'horizon': 256, 'vocabulary': 1024}
SIGMA = 0.6  # the standard deviation of the logarithm of a length


def decoder(vocabulary: int, args: argparse.Namespace) -> ModelConfig:
  """Returns the shape of the model."""
  heads = args.hidden_size // 64
  return ModelConfig(
    vocab_size=vocabulary,
    hidden_size=args.hidden_size,
    intermediate_size=args.hidden_size * 8 // 3,
    num_layers=args.layers,
    num_heads=heads,
    num_kv_heads=1,
    head_dim=64,
    qkv_bias=True,
    family='qwen2',
  )


def sweep(name: str, values: list[int], args: argparse.Namespace) -> list[dict[str, Any]]:
  """Times the rollout for several values of one number. The values take turns, after one run each that compiles."""
  rule = stops.never()
  points: list[tuple[int, forced.Forced, Params, workload.Workload]] = []
  entries: list[dict[str, Any]] = []
  for value in values:
    its = BASE | {name: value}
    config = decoder(its['vocabulary'], args)
    params = forced.with_value_head(config, init(config, jax.random.key(args.seed)))
    lengths = workload.log_normal(its['rows'], args.mean_length, args.longest, SIGMA, args.seed)
    work = workload.make(
      lengths,
      slots=its['slots'],
      horizon=its['horizon'],
      width=args.prompt_tokens,
      vocabulary=its['vocabulary'],
      seed=args.seed,
    )
    model = forced.Forced(config)
    start = time.perf_counter()
    jax.block_until_ready(forced.generate(model, params, rule, work.with_lengths(np.ones_like(lengths)), 0))
    entries.append({name: value, 'workload': measure.describe(work), 'warm_up_seconds': time.perf_counter() - start})
    points.append((value, model, params, work))
  seconds: list[list[float]] = [[] for _ in points]
  for repeat in range(args.repeats):
    for i, (value, model, params, work) in enumerate(points):
      start = time.perf_counter()
      result = jax.block_until_ready(forced.generate(model, params, rule, work, args.seed + repeat))
      seconds[i].append(time.perf_counter() - start)
      if not np.array_equal(result.length, work.lengths):
        raise AssertionError(f'{name} = {value}: lengths are not those asked for')
      entries[i]['steps'] = forced.executed_steps(result)
      print(f'{name} = {value}: {seconds[i][-1]:.2f} s', flush=True)
  for entry, its, (_, _, _, work) in zip(entries, seconds, points, strict=True):
    tokens, steps = int(work.lengths.sum()), entry['steps']
    entry |= {
      'seconds': measure.estimate(its),
      'relative_to_first': measure.estimate([x / first for x, first in zip(its, seconds[0], strict=True)]),
      'tokens_per_second': measure.estimate([tokens / x for x in its]),
      'milliseconds_per_step': measure.estimate([1e3 * x / steps for x in its]),
      'utilisation': tokens / (steps * work.slots),
      'executed_over_list_scheduling': steps * work.slots / entry['workload']['list_scheduling_row_steps'],
    }
  return entries


def page(results: dict[str, Any]) -> list[str]:
  """Returns the page."""
  model, work = results['model'], results['lengths']
  lines = [
    '# How the rollout scales',
    '',
    *report.header(results),
    f'Qwen2-shaped decoder of {model["num_layers"]} layers, hidden {model["hidden_size"]}, random float32 weights.',
    f'Values that do not vary: {", ".join(f"{name} {value}" for name, value in BASE.items())}, prompts of '
    f'{work["prompt_tokens"]} tokens.',
    f'Lengths are log-normal with mean {work["mean"]:g} and sigma {SIGMA}, at most {work["longest"]}, and forced by the end '
    'token.',
    f'Seed {results["seed"]}; ± is half the 95 % interval over {results["repeats"]} repeats (Student t), without compilation.',
  ]
  for name, entries in results['sweeps'].items():
    lines += [
      '',
      f'| {name} | seconds | ratio to the first | ms per step | tokens/s | utilisation | row-steps / list scheduling '
      '| first run, s |',
      '|---|---|---|---|---|---|---|---|',
    ]
    for entry in entries:
      cells = [
        str(entry[name]),
        report.number(entry['seconds'], 2),
        report.number(entry['relative_to_first'], 2),
        report.number(entry['milliseconds_per_step'], 2),
        report.number(entry['tokens_per_second'], 0),
        f'{entry["utilisation"]:.3f}',
        f'{entry["executed_over_list_scheduling"]:.3f}',
        f'{entry["warm_up_seconds"]:.1f}',
      ]
      lines.append('| ' + ' | '.join(cells) + ' |')
  return lines


def main(argv: list[str]) -> None:
  """Runs the command."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--sweeps', default=','.join(SWEEPS), help='a list with commas')
  parser.add_argument('--values', default='', help='the values of each sweep, with commas; by default those of SWEEPS')
  parser.add_argument('--repeats', type=int, default=3)
  parser.add_argument('--mean_length', type=float, default=64)
  parser.add_argument('--longest', type=int, default=256)
  parser.add_argument('--prompt_tokens', type=int, default=16)
  parser.add_argument('--hidden_size', type=int, default=128, help='a multiple of 64')
  parser.add_argument('--layers', type=int, default=4)
  parser.add_argument('--seed', type=int, default=0)
  parser.add_argument(
    '--output', type=pathlib.Path, default=ROOT / 'experiments/benchmarks/scaling', help='the path of the page without suffix'
  )
  args = parser.parse_args(argv)
  names = args.sweeps.split(',')
  if unknown := set(names) - set(SWEEPS):
    parser.error(f'--sweeps: {min(unknown)!r} is none of {", ".join(SWEEPS)}')
  values = [int(value) for value in args.values.split(',') if value]
  results = report.environment('PYTHONPATH=. python scripts/bench_scaling.py', argv) | {
    'model': dataclasses.asdict(decoder(BASE['vocabulary'], args)),
    'base': BASE,
    'lengths': {'mean': args.mean_length, 'longest': args.longest, 'sigma': SIGMA, 'prompt_tokens': args.prompt_tokens},
    'seed': args.seed,
    'repeats': args.repeats,
    'sweeps': {name: sweep(name, values or list(SWEEPS[name]), args) for name in names},
  }
  lines = page(results)
  report.write(args.output, results, lines)
  print('\n'.join(lines))


if __name__ == '__main__':
  main(sys.argv[1:])

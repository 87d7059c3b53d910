"""Compares the best of some long answers to a problem with the best of so many short ones as cost the same operations.

  python -m espo_jax.evaluate --checkpoint=runs/dfs --samples=4 --record --output=evaluations/dfs
  python -m espo_jax.evaluate --checkpoint=runs/direct --samples=64 --record --output=evaluations/direct
  PYTHONPATH=. python scripts/measure_equal_flops.py --long=evaluations/dfs --short=evaluations/direct --output=runs/equal

Both evaluations are of runs on the same problems, such as those of the tasks 'countdown_dfs', and 'countdown' with
`max_attempts = 1`, with one difficulty and seed. Behind each flag may stand several folders, one per seed of the runs, in the
same order. Nothing is sampled. OUTPUT.json and OUTPUT.md have the accuracies and their differences.
"""

import argparse
import pathlib
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from bench import report
from jaxtyping import Bool, Float

from espo_jax.configs import ConfigError, load_config
from espo_jax.evaluate.estimates import problems_asked
from espo_jax.evaluate.measures import FlopMatched, flop_matched_eval
from espo_jax.evaluate.policies import RequestError
from espo_jax.evaluate.reading import read_graded
from espo_jax.experiment import make_experiment
from espo_jax.model import ModelConfig, answer_flops
from espo_jax.monitor import OutputError
from espo_jax.parallel.storage import DamagedFile
from espo_jax.tasks import DataError, encode_text


class Answers(NamedTuple):
  """The answers of an evaluation: whether each is right, and what it cost."""

  prompts: list[str]
  right: Bool[np.ndarray, 'P N']
  flops: Float[np.ndarray, 'P N']


def flops_of(config: ModelConfig, prompts: list[int], lengths: Float[np.ndarray, 'P N']) -> Float[np.ndarray, 'P N']:
  """Returns the operations of each answer, each of which reads its prompt."""
  return np.array([[answer_flops(config, prompt, int(x)) for x in row] for prompt, row in zip(prompts, lengths, strict=True)])


def read_answers(folder: pathlib.Path) -> Answers:
  """Reads the answers of a finished evaluation of a run on its own test split, whose config a recording has.

  Raises:
    RequestError: The folder holds no recording, no finished evaluation, or answers to other problems than its split has now.
    OutputError, DamagedFile: A file of the answers cannot be read.
    ConfigError, DataError: The config or the data cannot be used.
  """
  if not (folder / 'config.json').is_file():
    raise RequestError(f'{folder} holds no config.json of a recording; fix: evaluate with --record')
  graded, exp = read_graded(folder, ()), make_experiment(load_config(folder / 'config.json'))
  if environment := graded.settings.get('environment'):
    raise RequestError(
      f'{folder} has episodes with the environment {environment!r}, whose prompts grow; fix: answers of one turn'
    )
  if exp.config.exits.every:
    raise RequestError(f'{folder} has answers of a model with early exits, whose tokens differ in cost; fix: exits.every = 0')
  prompts = [problem.prompt for problem in problems_asked(exp, graded.settings, str(folder))]
  lengths = np.stack([samples.lengths for samples in graded.problems])
  tokens = [len(encode_text(exp.tokenizer, prompt)) for prompt in prompts]
  return Answers(prompts, np.stack(graded.correct), flops_of(exp.model.config, tokens, lengths))


def page(results: dict[str, Any], found: Sequence[Sequence[FlopMatched]]) -> list[str]:
  """Returns the lines of the page.

  Args:
    results: What the JSON file has.
    found: The comparisons of each pair of runs, with 1, 2, 4, ... long answers.
  """
  lines = [
    '# Long answers against short ones of equal cost',
    '',
    *report.header(results),
    '',
    f'There are {results["problems"]} problems, with {results["long_samples"]} long and {results["short_samples"]} short '
    'answers to each. An answer costs the matrix products of its prompt and of its tokens, attention included. The best of '
    'several answers is right if one of them is. Intervals are 95 % bootstrap intervals over problems.',
    '',
    '| runs | long answers | short ones of equal cost | long, % | short, % | long - short, points |',
    '|---:|---:|---:|---:|---:|---:|',
  ]
  for number, pair in enumerate(found, start=1):
    for best_of, its in zip(_best_of(results['long_samples']), pair, strict=True):
      (low, high), most = its.interval, results['short_samples']
      count = f'{its.samples:.2f}' if its.enough else f'{its.samples:.2f}, of which there are {most}'
      lines.append(
        f'| {number} | {best_of} | {count} | {100 * its.long:.1f} | {100 * its.short:.1f} '
        f'| {100 * its.lead:.1f} [{100 * low:.1f}, {100 * high:.1f}] |'
      )
  return lines


def _best_of(samples: int) -> list[int]:
  """Returns the numbers of long answers that are compared: the powers of two up to all."""
  return [1 << i for i in range(samples.bit_length())]


def main(argv: list[str]) -> None:
  """Runs the command."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  for kind in ('long', 'short'):
    told = f'the folders of evaluations of {kind} answers'
    parser.add_argument(f'--{kind}', type=pathlib.Path, nargs='+', required=True, metavar='DIR', help=told)
  parser.add_argument('--output', type=pathlib.Path, required=True, help='the page to write, without a suffix')
  args = parser.parse_args(argv)
  if len(args.long) != len(args.short):
    raise SystemExit(f'error: {len(args.long)} folders behind --long and {len(args.short)} behind --short; fix: pairs')
  found, sizes = [], {}
  for folders in zip(args.long, args.short, strict=True):
    try:
      long, short = map(read_answers, folders)
    except (RequestError, OutputError, ConfigError, DamagedFile, DataError) as error:
      raise SystemExit(f'error: {error}') from error
    if long.prompts != short.prompts:
      raise SystemExit(f'error: {folders[0]} and {folders[1]} have other problems; fix: tasks of one difficulty and seed')
    its = {'problems': len(long.prompts), 'long_samples': long.right.shape[1], 'short_samples': short.right.shape[1]}
    if (sizes := sizes or its) != its:
      raise SystemExit(f'error: {folders[0]} and {folders[1]} have {its}, and those before {sizes}; fix: equal numbers')
    found.append(
      [
        flop_matched_eval(short.right, short.flops, long.right, long.flops, best_of=count)
        for count in _best_of(its['long_samples'])
      ]
    )
  results = report.environment('PYTHONPATH=. python scripts/measure_equal_flops.py', argv) | sizes
  results['measured'] = [[its._asdict() for its in pair] for pair in found]
  lines = page(results, found)
  report.write(args.output, results, lines)
  print('\n'.join(lines))


if __name__ == '__main__':
  main(sys.argv[1:])

"""Make examples for the warm start of recorded rollouts.

  python -m espo_jax.evaluate --checkpoint=models/mine --benchmark=gsm8k --data=train.jsonl --samples=8 --record \
    --output=evaluations/train
  python -m espo_jax.sources --source=sbt_e --options threshold=0.3 --rollouts=evaluations/train --output=data/braked.jsonl

The output has one example per line: a prompt and a response in segments, each with or without loss. Training reads it with
`--config.warm_start.data=data/braked.jsonl`. The same seed, rollouts and options give the same bytes.

Rollouts of the test split would teach the policy the problems that it is evaluated on. The warm start warns of them.
"""

import argparse
import pathlib
import sys
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from espo_jax import monitor, registry, sources, tasks
from espo_jax.commands import CommandParser, NamedValues, lower_flags, machine_errors
from espo_jax.configs import ConfigError, load_config
from espo_jax.evaluate.options import Named, read_named
from espo_jax.evaluate.policies import RequestError, in_words_of
from espo_jax.sources.judge import Judge, make_judge
from espo_jax.sources.rollouts import CONFIG


def make_examples(named: Named, problems: Sequence[sources.Asked], judge: Judge, seed: int) -> list[tasks.Example]:
  """Makes the examples of a source.

  Args:
    named: The source with its options.
    problems: The problems with their rollouts.
    judge: The judge of the rollouts.
    seed: The seed of the random numbers that the source reads.

  Raises:
    SourceError: An option is out of range, or the source yields no examples, or something that is none.
  """
  flag = f'--source={named.name}'
  method = sources.REGISTRY[named.name]
  known = {'problems': problems, 'judge': judge, 'rng': np.random.default_rng([seed, zlib.crc32(named.name.encode())])}
  try:
    made = list(method(*(known[name] for name in registry.inputs(method)), **named.options))
    for example in made:
      if not isinstance(example, tasks.Example):
        raise ValueError(f'it yields {example!r}; fix: an espo_jax.tasks.Example, as Rollout.example makes')
      tasks.example_of(example.place, tasks.record_of(example))
  except ValueError as error:
    raise sources.SourceError(f'{flag}: {error}') from error
  if not made:
    rollouts = [rollout for asked in problems for rollout in asked.rollouts]
    right = sum(rollout.correct for rollout in rollouts)
    told = f'none of {len(rollouts)} rollouts, of which {right} are right, makes an example'
    raise sources.SourceError(f'{flag}: {told}; fix: other --options, or rollouts of a policy that is right now and then')
  return made


def build(named: Named, folder: pathlib.Path, output: pathlib.Path, seed: int) -> str:
  """Writes the examples that a source makes of the rollouts in a folder, and returns the report.

  Raises:
    RequestError: The config of the rollouts does not fit this machine, or the data of their task cannot be used.
    SourceError: The rollouts or the options cannot be used, or there are no examples.
    OutputError: A line of the rollouts is damaged.
    DamagedFile: Another file of them cannot be read.
  """
  problems = sources.read_rollouts(folder)
  try:
    judge = make_judge(load_config(folder / CONFIG))
  except ValueError as error:
    problem = error if isinstance(error, ConfigError) else ConfigError([str(error)])
    raise in_words_of(folder, problem, is_run=True) from error
  examples = make_examples(named, problems, judge, seed)
  monitor.atomic_write_text(output, ''.join(monitor.to_json(tasks.record_of(example)) + '\n' for example in examples))
  learnt = sum(len(part.text) for example in examples for part in example.segments if part.loss)
  share = learnt / sum(len(part.text) for example in examples for part in example.segments)
  rollouts = sum(len(asked.rollouts) for asked in problems)
  return (
    f'{named.label}: {len(examples)} examples of {rollouts} rollouts of {len(problems)} problems; {share:.0%} of their '
    f'characters have loss\ntrain on them: --config.warm_start.data={output}\nwrote {output}'
  )


def _parser() -> argparse.ArgumentParser:
  parser = CommandParser(
    prog='python -m espo_jax.sources',
    usage='%(prog)s --source=NAME [--options NAME=VALUE ...] --rollouts=DIR --output=FILE',
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument('--source', required=True, metavar='NAME', help=f'one of {", ".join(sources.REGISTRY)}')
  parser.add_argument(
    '--options', nargs='+', action=NamedValues, default=[], type=_option, metavar='NAME=VALUE', help='options of the source'
  )
  parser.add_argument('--rollouts', required=True, metavar='DIR', help='the output folder of an evaluation with --record')
  parser.add_argument('--output', required=True, metavar='FILE', help='the file to write, JSON lines')
  parser.add_argument('--seed', type=int, default=0, help='the seed of random choices; by default %(default)s')
  return parser


def _option(text: str) -> tuple[str, str]:
  option, equals, value = text.partition('=')
  if not equals:
    raise argparse.ArgumentTypeError(f'--options {text}: no value; fix: NAME=VALUE, as in threshold=0.3')
  return option, value


def main(argv: Sequence[str]) -> None:
  """Runs the command."""
  parser = _parser()
  flags: dict[str, Any] = vars(parser.parse_args(argv))
  if flags['seed'] < 0:
    parser.error(f'--seed={flags["seed"]}: out of range; fix: a number of at least 0')
  with machine_errors(lambda _: lower_flags({}, 'a host with more memory')):
    try:
      (named,) = read_named('--source', sources.REGISTRY, [(flags['source'], flags['options'])])
      print(build(named, pathlib.Path(flags['rollouts']), pathlib.Path(flags['output']), flags['seed']))
    except (RequestError, sources.SourceError, monitor.OutputError) as error:
      sys.exit(f'error: {error}')


if __name__ == '__main__':
  main(sys.argv[1:])

"""Evaluate a policy: many answers to each problem of a test set.

  python -m espo_jax.evaluate --checkpoint=runs/quickstart --arm=espo --samples=8
  python -m espo_jax.evaluate --checkpoint=models/Qwen2.5-Math-1.5B --benchmark=math500 --data=test.jsonl --samples=16

The output folder then holds samples.jsonl and summary.json. samples.jsonl has one answer per line with its text and its grade.
summary.json has avg@k, pass@k and maj@k with 95 % intervals, the lengths of right and wrong answers, and the shares of answers
that were cut off or not graded. The same command resumes an evaluation that was interrupted. On the same processor with as many
threads, the answers equal those of an uninterrupted evaluation.

With --record, espo_jax.replay can compare stop rules on the answers. With --stop=RULE, the rule ends answers. Each is decoded
on to its own end, so that the tokens saved and the right answers lost are known. A rule that ends failures needs the mean and
the variance of the regret. They are measured on the first batch, which is sampled once more for this. A rule that ends answers
which are settled needs neither.

With --processor=NAME, a logit processor changes the distribution that the tokens are drawn from. Several act one after another.

  python -m espo_jax.evaluate --checkpoint=models/mine --benchmark=gsm8k --processor=budget --options least=32 most=256

With --decoder=NAME, decoders choose among the answers to each problem, and decoders.json has their accuracy and the tokens that
they spend. Options stand behind their decoder or processor. --from=DIR takes the answers of an earlier evaluation:

  python -m espo_jax.evaluate --from=evaluations/recorded --decoder=majority --decoder=deepconf --options keep=0.9 --curve

With --estimate=RUN, the answers of an earlier evaluation with --record tell how another checkpoint would answer:

  python -m espo_jax.evaluate --from=evaluations/recorded --estimate=runs/quickstart --arm=espo --step=40
"""

import argparse
import functools
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from absl import logging

from espo_jax import decoders, monitor, parallel, stops
from espo_jax.commands import CommandParser, NamedValues, lower_flags, machine_errors
from espo_jax.configs import ConfigError
from espo_jax.configs.constants import Constant
from espo_jax.evaluate.asked import asked_for, drawn_by
from espo_jax.evaluate.decoding import decode, format_decoders
from espo_jax.evaluate.estimates import estimate, format_estimate
from espo_jax.evaluate.evaluation import evaluate
from espo_jax.evaluate.options import read_named
from espo_jax.evaluate.policies import DTYPE, HORIZON, PROMPT, TEMPERATURE, RequestError, open_policy
from espo_jax.evaluate.request import BENCHMARKS, Request
from espo_jax.evaluate.settling import format_settled
from espo_jax.evaluate.stopping import format_stops
from espo_jax.learner import CheckpointError
from espo_jax.model import WeightsError
from espo_jax.parallel.memory import LOADING, READING
from espo_jax.rollout import processors
from espo_jax.stages.loop import INTERRUPTED, Interrupted, going_on
from espo_jax.tasks.files import FORMATS
from espo_jax.tasks.pretrained import PROMPTS
from espo_jax.tasks.sources import ON_ERROR

_TOO_MANY_CUT = 0.05


def _lower(request: Request | None, phase: str) -> str:
  """Returns what to change about an evaluation that ran out of memory; None is one that samples nothing."""
  if request is None:
    return 'a host with more memory'
  if phase == READING:
    return lower_flags({'data': 'FILE'}, 'a host with more memory: fewer rows take less')
  narrow = 'bfloat16' if request.dtype in (None, 'float32') else None
  if phase == LOADING:
    return lower_flags({'dtype': narrow}, 'more or larger devices')
  rows = request.batch or open_policy(pathlib.Path(request.checkpoint).absolute(), request.arm).config.eval.batch
  fewer = {'batch': rows // 2 or None, 'slots': min(request.slots or rows, rows) // 4 or None, 'dtype': narrow}
  drawer = drawn_by(request.decoders)
  side_by_side = drawer and not isinstance(drawer.decoder.drawing, decoders.Revision)
  if side_by_side or (request.stop and stops.REGISTRY[request.stop]().probing is not None):
    fewer['slots'] = None  # all answers of a batch are decoded at a time
  return lower_flags(fewer, 'a shorter --horizon')


def _parser() -> argparse.ArgumentParser:
  parser = CommandParser(
    prog='python -m espo_jax.evaluate',
    usage='%(prog)s (--checkpoint=DIR [--benchmark=NAME] | --from=DIR --decoder=NAME) [more of the options below]',
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  policy = parser.add_argument_group('policy')
  policy.add_argument('--checkpoint', help='the folder of a run of espo_jax.train, or a Hugging Face directory')
  policy.add_argument('--arm', help="of a run: a stop rule's arm, warm_start or critic_warmup; by default the run's main arm")
  policy.add_argument('--step', type=int, help='of a run: a step that has a checkpoint; by default the newest')
  policy.add_argument(
    '--dtype',
    choices=('float32', 'bfloat16', 'float16'),
    help=f"the dtype of weights and activations; by default the run's, or {DTYPE} weights; a CPU then computes in float32",
  )
  problems = parser.add_argument_group('problems')
  problems.add_argument(
    '--benchmark',
    choices=sorted(BENCHMARKS),
    help="by default the run's own test split; needed without a run; jsonl is your own data",
  )
  problems.add_argument(
    '--data', help=f'a file of {FORMATS}, or a directory of espo_jax.prepare_data; by default the Hugging Face Hub'
  )
  problems.add_argument('--problem_field', metavar='NAME', help="of jsonl: the problem's field; by default the run's")
  problems.add_argument('--answer_field', metavar='NAME', help="of jsonl: the final answer's field; by default the run's")
  problems.add_argument(
    '--on_error', choices=ON_ERROR, help="what to do with a malformed row; by default the run's data.on_error, or raise"
  )
  problems.add_argument(
    '--problems', type=int, help="the first so many; by default a benchmark's all, or the run's eval.problems"
  )
  problems.add_argument(
    '--prompt',
    choices=PROMPTS,
    help=f"how a Hugging Face directory's model is asked; by default {PROMPT}, a run's is the run's",
  )
  answers = parser.add_argument_group('answers')
  answers.add_argument('--samples', type=int, default=Request.samples, help='to each problem; by default %(default)s')
  answers.add_argument('--temperature', type=float, help=f"0 is greedy; by default the run's, or {TEMPERATURE}")
  answers.add_argument('--top_p', type=float, help="share of the distribution that is sampled; by default the run's, or 1")
  answers.add_argument('--top_k', type=int, help="tokens that are sampled from, 0 is all; by default the run's, or 0")
  answers.add_argument('--min_p', type=float, help="least probability in parts of the likeliest's; by default the run's, or 0")
  answers.add_argument('--horizon', type=int, help=f"tokens of an answer at most; by default the run's, or {HORIZON}")
  answers.add_argument('--seed', type=int, default=Request.seed, help='another one draws other answers; by default %(default)s')
  answers.add_argument('--batch', type=int, help="answers to write at a time, about; by default the run's eval.batch, or 256")
  answers.add_argument(
    '--slots',
    type=int,
    help="of these, decoded at a time; 0 is all; by default the run's rollout.slots, or 0; where --stop asks for answers it "
    'bounds only the probes, and --batch alone the answers',
  )
  stopping = parser.add_argument_group('stop rules')
  stopping.add_argument('--record', action='store_true', help='keep the regret of every token in OUTPUT/rollouts, for replay')
  stopping.add_argument(
    '--features',
    type=int,
    default=Request.features,
    metavar='K',
    help="of --record: also keep every state's entropy, margin and K projections; by default %(default)s, none of them",
  )
  stopping.add_argument(
    '--stop', metavar='RULE', help='a stop rule, which ends answers; they are decoded on to see what is lost'
  )
  stopping.add_argument(
    '--constants',
    nargs='*',
    action=NamedValues,
    type=_constant,
    default=[],
    metavar='NAME=VALUE',
    help="constants of the rule; by default the run's",
  )
  _add_named(parser)
  answers.add_argument(
    '--output',
    help='by default CHECKPOINT/evaluations/ARM-STEP-BENCHMARK, or evaluations/NAME-BENCHMARK; with --from, that folder',
  )
  return parser


def _add_named(parser: argparse.ArgumentParser) -> None:
  """Adds the flags about processors, decoders and recorded answers."""
  methods = parser.add_argument_group('processors and decoders')
  for flag, told, names in (
    ('--processor', 'a change of what answers are drawn from', processors.REGISTRY),
    ('--decoder', 'a choice among the answers', decoders.REGISTRY),
  ):
    methods.add_argument(
      flag,
      dest='named',
      action=_Named,
      default=(),
      metavar='NAME',
      help=f'{told}, one of {", ".join(names)}; may be repeated',
    )
  methods.add_argument(
    '--options',
    dest='named',
    action=_Optioned,
    nargs='+',
    metavar='NAME=VALUE',
    help='options of the processor or decoder before them',
  )
  methods.add_argument(
    '--end_of_thinking',
    metavar='TEXT',
    help="the token that ends the thinking, such as </think>; by default the run's, or else the end of an answer",
  )
  methods.add_argument(
    '--curve', action='store_true', help='decoders also choose among the first 1, 2, ... answers; draws decoders.png'
  )
  recorded = parser.add_argument_group('recorded answers')
  recorded.add_argument(
    '--from', dest='source', metavar='DIR', help='the output folder of an evaluation, whose answers are taken; samples none'
  )
  recorded.add_argument(
    '--estimate', metavar='RUN', help='a run, whose checkpoint is estimated from the recorded answers of --from'
  )


class _Named(argparse.Action):
  """Adds a processor or a decoder without options."""

  def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
    """Adds it to those that the flags before named, with the flag."""
    namespace.named = (*namespace.named, (self.option_strings[0], values, ()))


class _Optioned(argparse.Action):
  """Gives options to the last processor or decoder."""

  def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
    """Adds the options to those that it has."""
    for text in values:
      option, equals, value = text.partition('=')
      if not equals or not namespace.named:
        wrong = 'no processor or decoder stands before it' if equals else 'no value'
        raise argparse.ArgumentError(self, f'--options {text}: {wrong}; fix: --decoder=deepconf --options keep=0.9, say')
      *before, (flag, name, options) = namespace.named
      namespace.named = (*before, (flag, name, (*options, (option, value))))


def _constant(text: str) -> tuple[str, Constant]:
  name, _, value = text.partition('=')
  try:
    return name, tuple(int(token) for token in value.split(',')) if ',' in value else float(value)
  except ValueError as error:
    raise argparse.ArgumentTypeError(f'--constants {text}: {error}; fix: NAME=VALUE, as in smoothing=0.5') from error


def _report(summary: dict[str, Any]) -> str:
  settings, session = summary['settings'], summary['session']
  of = f'{monitor.arm_label(settings["arm"])}, step {settings["step"]}' if settings['arm'] else settings['checkpoint']
  test_set = settings['benchmark'] or 'test'
  lines = [
    f'{of}: {summary["problems"]} {test_set} problems, {summary["samples"]} answer{"s" * (summary["samples"] > 1)} to each '
    f'at temperature {settings["temperature"]:g}',
    '',
    monitor.format_scores(summary),
  ]
  if 'stop' in summary:
    lines.append(format_settled(summary) if 'settled' in summary['stop'] else format_stops(summary))
  if session:
    lines.append(f'{session["tokens_per_second"]:,.0f} tokens/s on {session["device"]}')
  if summary['truncated'] > _TOO_MANY_CUT and 'environment' not in settings:  # an episode may be out of turns
    lines.append(f'Answers that are cut count as wrong; fix: more than --horizon={settings["horizon"]}, if they are to end.')
  if 'record' in settings:
    lines.append(f'compare stop rules on these answers: python -m espo_jax.replay --rollouts={summary["output"]}')
  return '\n'.join([*lines, f'wrote {summary["output"]}'])


def _decode(folder: pathlib.Path, output: pathlib.Path, request: Mapping[str, Any]) -> str:
  """Lets decoders choose among answers that are in a folder, and returns the report."""
  return f'{format_decoders(decode(folder, output, request["decoders"], curve=request["curve"]))}\nwrote {output}'


def _from_answers(source: str, estimated: str | None, flags: Mapping[str, Any], parser: argparse.ArgumentParser) -> str:
  """Lets decoders choose among the answers of an earlier evaluation, and returns the report."""
  if flags['processors']:
    raise RequestError(f'--processor={flags["processors"][0].name} with --from={source}: nothing is sampled; fix: leave it out')
  used = ('processors', 'decoders', 'curve', 'output', *(('arm', 'step') if estimated else ()))
  if other := next((name for name, value in flags.items() if name not in used and value != parser.get_default(name)), ''):
    given = f'--{other}' if isinstance(flags[other], (bool, list)) else f'--{other}={flags[other]}'
    raise RequestError(f'{given} with --from={source}: nothing is sampled; fix: leave it out')
  if not flags['decoders'] and not estimated:
    raise RequestError(f'--from={source}: no decoder to choose among its answers; fix: --decoder=majority, say')
  folder = pathlib.Path(source)
  output = pathlib.Path(flags['output'] or folder)
  told = [_decode(folder, output, flags)] if flags['decoders'] and parallel.is_first() else []
  if estimated:  # all processes score the answers
    told.append(format_estimate(estimate(folder, output, estimated, flags['arm'], flags['step'])))
  return '\n'.join(told)


def _evaluated(request: Request) -> str:
  """Evaluates, and returns the report."""
  summary = evaluate(request)
  if not parallel.is_first():
    return ''
  output = pathlib.Path(summary['output'])
  return '\n'.join([_report(summary), *([_decode(output, output, vars(request))] if request.decoders else [])])


def main(argv: Sequence[str]) -> None:
  """Runs the command."""
  parser = _parser()
  flags = vars(parser.parse_args(argv))
  source, estimated = flags.pop('source'), flags.pop('estimate')
  if not source and not flags['checkpoint']:
    parser.error('the following arguments are required: --checkpoint')
  try:
    named = flags.pop('named')
    processing = ((name, options) for flag, name, options in named if flag == '--processor')
    flags['processors'] = list(read_named('--processor', processors.REGISTRY, processing))
    flags['decoders'] = asked_for((name, options) for flag, name, options in named if flag == '--decoder')
  except RequestError as error:
    parser.error(str(error))
  if estimated and not source:
    parser.error(f'--estimate={estimated}: no answers to estimate from; fix: --from=DIR')
  request = None if source else Request(**flags)
  logging.set_verbosity(logging.WARNING)  # orbax logs every file at INFO
  with parallel.job(), machine_errors(functools.partial(_lower, request)):
    try:
      report = _evaluated(request) if request else _from_answers(source, estimated, flags, parser)
      if parallel.is_first():
        print(report)
    except Interrupted as stopped:
      print(going_on(stopped, 'espo_jax.evaluate', argv), file=sys.stderr, flush=True)
      sys.exit(INTERRUPTED)
    except (RequestError, CheckpointError, ConfigError, WeightsError, monitor.OutputError) as error:
      sys.exit(f'error: {error}')
    except KeyboardInterrupt:
      sys.exit(going_on(Interrupted('evaluation: ended at once; whole batches are kept'), 'espo_jax.evaluate', argv))


if __name__ == '__main__':
  main(sys.argv[1:])

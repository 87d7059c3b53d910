"""Evaluate a policy: many answers to each problem of a test set.

  python -m espo_jax.evaluate --checkpoint=runs/quickstart --arm=espo --samples=8
  python -m espo_jax.evaluate --checkpoint=models/Qwen2.5-Math-1.5B --benchmark=math500 --data=test.jsonl --samples=16

The output folder then holds samples.jsonl, an answer a line with its text and its grade, and summary.json: avg@k, pass@k and
maj@k with 95 % intervals, lengths of right and wrong answers, what was cut off or not graded. The same command goes on with an
evaluation that was interrupted; on the same processor with as many threads the answers are those of an uninterrupted one.
"""

import argparse
import contextlib
import dataclasses
import datetime
import functools
import hashlib
import json
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax
from absl import logging

from espo_jax import monitor, parallel, tasks
from espo_jax.commands import CommandParser, lower_flags, machine_errors
from espo_jax.configs import ConfigError, validate
from espo_jax.evaluation import prompts_per_batch, sample_answers
from espo_jax.experiment import Experiment, make_experiment
from espo_jax.learner import CheckpointError
from espo_jax.memory import LOADING, READING, during
from espo_jax.model import WeightsError
from espo_jax.monitor.samples import SETTINGS
from espo_jax.policy import DTYPE, HORIZON, PROMPT, TEMPERATURE, Policy, RequestError, in_words_of, open_policy
from espo_jax.stage import INTERRUPTED, Interrupted, going_on, interruption
from espo_jax.tasks.files import FORMATS
from espo_jax.tasks.own import FIELDS
from espo_jax.tasks.pretrained import PROMPTS
from espo_jax.tasks.sources import ON_ERROR, path_problem

_BENCHMARKS = (*tasks.BENCHMARKS, tasks.JSONL)
_ANY_WIDTH = 2**20  # tokens of a prompt: those that are asked are padded to their longest
_TOO_MANY_CUT = 0.05
_RANGES: tuple[tuple[str, Callable[[Any], bool], str], ...] = (
  *((name, lambda x: x <= 0, 'above 0') for name in ('samples', 'problems', 'horizon', 'batch')),
  *((name, lambda x: x < 0, 'of at least 0') for name in ('top_k', 'slots')),
  ('temperature', lambda x: not 0 <= x < float('inf'), 'of at least 0'),
  ('top_p', lambda x: not 0 < x <= 1, 'in (0, 1]'),
  ('min_p', lambda x: not 0 <= x <= 1, 'in [0, 1]'),
  ('seed', lambda x: not 0 <= x < 2**32, f'from 0 to {2**32 - 1}'),
)
# The flags that set what messages about a config call by its fields; what a run's own data set is, its config alone says.
_SKIP = (('--config.data.on_error', '--on_error'),)
_ASKED = (
  ('--config.data.eval_path', '--data'),
  ('data.eval_path', '--data'),
  ('--config.data.eval_benchmark', '--benchmark'),
  ('data.eval_benchmark', '--benchmark'),
  *((f'{prefix}data.{field}', f'--{field}') for field in FIELDS for prefix in ('--config.', '')),
)
_OF_DIRECTORY = (
  ('--config.task.options.prompt', '--prompt'),
  ('task.options.prompt', '--prompt'),
  ('--config.model.path', '--checkpoint'),
  ('model.path', '--checkpoint'),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
  """An evaluation, flag by flag. None leaves a choice to the run, or to the defaults for a Hugging Face directory.

  Attributes:
    checkpoint: the folder of a run, or a Hugging Face directory.
    arm: an arm of a run, or a stage before the arms.
    step: a step of a run that has a checkpoint.
    benchmark: a name in `tasks.BENCHMARKS`, or 'jsonl' for records of one's own, asked in place of the run's own test split.
    data: where the benchmark's problems are; None for the Hugging Face Hub.
    problem_field: where the benchmark is 'jsonl', the field that holds the problem; None for the run's `data.problem_field`.
    answer_field: where the benchmark is 'jsonl', the field that holds the final answer; None for the run's.
    on_error: 'raise' for the first malformed row, or 'skip' to ask the others and list those left out in `skipped.jsonl`.
    prompt: the form in which a Hugging Face directory is asked a problem.
    samples: answers to each problem.
    problems: how many problems at most, the first ones.
    temperature: 0 is greedy.
    top_p: the share of the distribution that is sampled.
    top_k: the number of tokens that are sampled from; 0 is all.
    min_p: the least probability of a token, in parts of the likeliest one's.
    horizon: tokens that an answer may have.
    batch: answers to write at a time, about.
    slots: answers to decode at a time, where a finished one gives its place to the next; 0 is all of a batch.
    seed: the seed of the answers; the problems do not depend on it.
    dtype: the type of weights and activations.
    output: the folder to write.
  """

  checkpoint: str
  arm: str | None = None
  step: int | None = None
  benchmark: str | None = None
  data: str | None = None
  problem_field: str | None = None
  answer_field: str | None = None
  on_error: str | None = None
  prompt: str | None = None
  samples: int = 32
  problems: int | None = None
  temperature: float | None = None
  top_p: float | None = None
  top_k: int | None = None
  min_p: float | None = None
  horizon: int | None = None
  batch: int | None = None
  slots: int | None = None
  seed: int = 0
  dtype: str | None = None
  output: str | None = None


def evaluate(request: Request) -> dict[str, Any]:
  """Sample and grade what is not there yet, then bring it together.

  Returns:
    What `monitor.summarise_samples` returns, with `settings`, all that the answers depend on, and `session`: rows, tokens and
    seconds of the last session that sampled any.

  Raises:
    RequestError: What was asked for does not exist, does not go together or does not fit this machine; the problems cannot be
      used.
    ConfigError: The run's config does not fit this version.
    DeviceError: jax finds no device.
    OutOfMemory: A device or the host has no memory left.
    WeightsError: The weights cannot be used.
    CheckpointError: The checkpoint is damaged, or is another model's.
    OutputError: The output folder holds another evaluation.
    Interrupted: A signal asked for it; the same call goes on.
  """
  _check(request)
  checkpoint = pathlib.Path(request.checkpoint).absolute()
  policy = open_policy(checkpoint, request.arm, request.step)
  output = pathlib.Path(request.output) if request.output else _default_output(checkpoint, policy, request.benchmark)
  if not policy.is_run:
    policy.config.data.today = parallel.from_first(lambda: _day_begun(output))
  width = 0 if request.benchmark else policy.config.rollout.prompt_width
  exp = _experiment(policy, request)
  c = exp.config
  size = exp.task.size('test')
  wanted = request.problems or (size if request.benchmark and size else c.eval.problems)
  problems = exp.problems('test', 0, wanted if size is None else min(wanted, size))
  if c.task.name == 'math':  # as wide as its longest prompt; a run's own problems at least as wide as the run has them
    texts = [problem.prompt for problem in exp.tagged(problems)]
    c.rollout.prompt_width = max(width, *map(len, exp.tokenizer(texts, add_special_tokens=False)['input_ids']))
  prompts = prompts_per_batch(exp, len(problems), samples=request.samples, rows=request.batch or c.eval.batch)
  settings = {
    'checkpoint': str(checkpoint),
    'arm': policy.arm,
    'step': policy.step,
    'weights': policy.weights,
    'benchmark': request.benchmark or '',
    'problems': len(problems),
    'problems_digest': _digest(exp.tagged(problems)),
    'samples': request.samples,
    'temperature': c.rollout.temperature if request.temperature is None else request.temperature,
    **{name: c.rollout[name] for name in ('top_p', 'top_k', 'min_p', 'horizon', 'slots')},
    'prompts_per_batch': prompts,
    'run_seed': c.seed,
    'seed': request.seed,
    'dtype': c.model.dtype,
    'param_dtype': c.model.param_dtype,
    **({'today': c.data.today} if c.data.today else {}),
  }
  session = _answer(exp, policy, problems, settings, output)

  left_out = exp.task.findings()[:1] if c.data.on_error == 'skip' else []

  def bring_together() -> dict[str, Any]:
    for finding in left_out:
      monitor.atomic_write_text(output / finding.file, ''.join(monitor.to_json(entry) + '\n' for entry in finding.entries))
      if finding.entries:
        logging.warning('%s; see %s', finding.message, output / finding.file)
    path, last = output / 'summary.json', session
    if last is None and path.exists():
      last = json.loads(path.read_text())['session']
    summary = {'settings': settings} | monitor.summarise_samples(monitor.read_samples(output), request.samples)
    monitor.atomic_write_text(path, monitor.to_json(summary | {'session': last}, indent=2) + '\n')
    return summary | {'session': last, 'output': str(output)}

  return parallel.from_first(bring_together)


@during('sampling answers')
def _answer(
  exp: Experiment, policy: Policy, problems: Sequence[tasks.Problem], settings: dict[str, Any], output: pathlib.Path
) -> dict[str, Any] | None:
  """Write the answers that are missing, and tell what that took; None where none is missing."""
  prompts, samples = settings['prompts_per_batch'], settings['samples']
  total = len(problems) * samples
  with contextlib.ExitStack() as shown:
    if parallel.is_first():
      writer = shown.enter_context(monitor.SampleWriter(output, settings, batch=prompts * samples, total=total))
    start = lines = parallel.from_first(lambda: writer.lines)
    if start == total:
      return None
    right = tokens = 0
    seconds = 0.0
    params = policy.load(exp)
    signals = shown.enter_context(interruption('the batch at hand is finished and kept', 'that batch'))
    if parallel.is_first():
      progress = shown.enter_context(monitor.Progress('evaluation', total=total, initial=start, unit='answer'))
    batches = sample_answers(
      exp,
      params,
      problems,
      prompts,
      samples,
      settings['temperature'],
      seed=settings['seed'],
      start=start // samples,
    )
    for batch in batches:
      lines += len(batch.answers)
      right += sum(answer.correct for answer in batch.answers)
      tokens += sum(answer.length for answer in batch.answers)
      seconds += batch.seconds
      if parallel.is_first():
        writer.write(answer._asdict() for answer in batch.answers)
        progress.update(lines, {'accuracy': right / (lines - start), 'tokens_per_second': tokens / seconds})
      if lines < total and parallel.any_process(signals.requested):
        raise Interrupted(f'evaluation: {lines} of {total} answers are in {output}')
    return {
      'answers': total - start,
      'tokens': tokens,
      'seconds': seconds,  # the compiler's among them
      'tokens_per_second': tokens / seconds,
      'device': f'{jax.device_count()} x {jax.devices()[0].device_kind}',
      **monitor.machine(),
    }


def _check(request: Request) -> None:
  """What can be told from the flags alone."""
  for name, bad, wanted in _RANGES:
    value = getattr(request, name)
    if value is not None and bad(value):
      raise RequestError(f'--{name}={value}: out of range; fix: a number {wanted}')
  if request.temperature == 0 and request.samples > 1:
    raise RequestError(f'--samples={request.samples} with --temperature=0: the answers would all be the same; fix: --samples=1')
  if request.data and not request.benchmark:
    raise RequestError(f'--data={request.data}: what it holds is not said; fix: --benchmark={" or ".join(_BENCHMARKS)}')
  for name in ('problem_field', 'answer_field'):
    if (value := getattr(request, name)) and request.benchmark != tasks.JSONL:
      raise RequestError(f'--{name}={value}: only --benchmark={tasks.JSONL} reads fields by name; fix: leave it out')
  if request.benchmark == tasks.JSONL and not request.data:
    raise RequestError(f'--data is missing: --benchmark={tasks.JSONL} is data of your own; fix: --data=FILE')


def _experiment(policy: Policy, request: Request) -> Experiment:
  """The policy's experiment with the test set and the lengths that were asked for."""
  config = policy.config
  if -1 not in config.mesh.values():
    config.mesh.data = -1  # as many devices as there are, not as there were
  if request.dtype:
    config.model.dtype = config.model.param_dtype = request.dtype
  if request.prompt:
    if policy.is_run:
      raise RequestError(f'--prompt={request.prompt}: a run has a prompt of its own; fix: leave it out')
    config.task.options.prompt = request.prompt
  if request.on_error:
    if config.task.name != 'math':
      raise RequestError(f'--on_error={request.on_error}: the task {config.task.name!r} reads no rows; fix: leave it out')
    config.data.on_error = request.on_error
  if request.benchmark:
    _use_benchmark(config, request.benchmark, request)
  elif not policy.is_run:
    known = ' or '.join(_BENCHMARKS)
    raise RequestError(f'--benchmark is missing: {request.checkpoint} is no run with a test split; fix: --benchmark={known}')
  if config.task.name == 'math':
    config.rollout.prompt_width = _ANY_WIDTH
  try:
    validate(config, training=False)
    for name in ('horizon', 'top_p', 'top_k', 'min_p', 'slots'):  # after the checks: it may be short of a task's solutions
      if getattr(request, name) is not None:
        config.rollout[name] = getattr(request, name)
    return make_experiment(config)
  except (ConfigError, tasks.DataError) as error:
    flags = (*_SKIP, *(_ASKED if request.benchmark else ()), *(() if policy.is_run else _OF_DIRECTORY))
    raise in_words_of(pathlib.Path(request.checkpoint), error, is_run=policy.is_run, flags=flags) from error


def _use_benchmark(config: Any, benchmark: str, request: Request) -> None:
  if config.task.name != 'math':
    raise RequestError(f'--benchmark={benchmark}: the run learned the task {config.task.name!r} alone; fix: leave it out')
  source = tasks.find_benchmark(benchmark)
  path = request.data or source.hub
  if problem := path_problem(source, path, 'test'):
    raise RequestError(f'--data = {problem}')
  config.data.path = config.data.benchmark = ''
  config.data.eval_benchmark, config.data.eval_path = benchmark, path
  config.data.problem_field = request.problem_field or config.data.problem_field
  config.data.answer_field = request.answer_field or config.data.answer_field


def _default_output(checkpoint: pathlib.Path, policy: Policy, benchmark: str | None) -> pathlib.Path:
  if policy.is_run:
    return checkpoint / 'evaluations' / f'{policy.arm}-{policy.step}-{benchmark or "test"}'
  return pathlib.Path('evaluations') / f'{checkpoint.name}-{benchmark}'  # here: a model's directory may not be one's own


def _day_begun(output: pathlib.Path) -> str:
  """The day on which the evaluation in a folder was begun, today where there is none; '' where the folder does not say."""
  path = output / SETTINGS
  if not path.exists():
    return datetime.date.today().isoformat()
  try:
    return str(json.loads(path.read_text()).get('today', ''))
  except (ValueError, AttributeError):  # said when the folder is claimed
    return ''


def _digest(problems: Sequence[tasks.Problem]) -> str:
  return hashlib.blake2b(monitor.to_json(problems).encode(), digest_size=8).hexdigest()


def _lower(request: Request, phase: str) -> str:
  """What to change of an evaluation that ran out of memory."""
  if phase == READING:
    return lower_flags({'data': 'FILE'}, 'a host with more memory: fewer rows take less')
  narrow = 'bfloat16' if request.dtype in (None, 'float32') else None
  if phase == LOADING:
    return lower_flags({'dtype': narrow}, 'more or larger devices')
  rows = request.batch or open_policy(pathlib.Path(request.checkpoint).absolute(), request.arm).config.eval.batch
  fewer = {'batch': rows // 2 or None, 'slots': min(request.slots or rows, rows) // 4 or None, 'dtype': narrow}
  return lower_flags(fewer, 'a shorter --horizon')


def _parser() -> argparse.ArgumentParser:
  parser = CommandParser(
    prog='python -m espo_jax.evaluate',
    usage='%(prog)s --checkpoint=DIR [--benchmark=NAME] [--samples=N] [more of the options below]',
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  policy = parser.add_argument_group('policy')
  policy.add_argument('--checkpoint', required=True, help='the folder of a run of espo_jax.train, or a Hugging Face directory')
  policy.add_argument('--arm', help="of a run: a stop rule's arm, warm_start or critic_warmup; by default the run's main arm")
  policy.add_argument('--step', type=int, help='of a run: a step that has a checkpoint; by default the newest')
  policy.add_argument(
    '--dtype', choices=('float32', 'bfloat16', 'float16'), help=f"of the weights; by default the run's, or {DTYPE}"
  )
  problems = parser.add_argument_group('problems')
  problems.add_argument(
    '--benchmark',
    choices=sorted(_BENCHMARKS),
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
    '--slots', type=int, help="of these, decoded at a time; 0 is all; by default the run's rollout.slots, or 0"
  )
  answers.add_argument('--output', help='by default CHECKPOINT/evaluations/ARM-STEP-BENCHMARK, or evaluations/NAME-BENCHMARK')
  return parser


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
  if session:
    lines.append(f'{session["tokens_per_second"]:,.0f} tokens/s on {session["device"]}')
  if summary['truncated'] > _TOO_MANY_CUT:
    lines.append(f'Answers that are cut count as wrong; fix: more than --horizon={settings["horizon"]}, if they are to end.')
  return '\n'.join([*lines, f'wrote {summary["output"]}'])


def main(argv: Sequence[str]) -> None:
  """The command."""
  request = Request(**vars(_parser().parse_args(argv)))
  logging.set_verbosity(logging.WARNING)  # orbax tells of every file at INFO
  with parallel.job(), machine_errors(functools.partial(_lower, request)):
    try:
      report = _report(evaluate(request))
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

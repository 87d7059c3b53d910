"""Runs an evaluation: samples and grades the answers that are missing, then summarises all of them."""

import contextlib
import datetime
import functools
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
from absl import logging

from espo_jax import monitor, parallel, stops, tasks
from espo_jax.decoders import Drawing
from espo_jax.evaluate.answers import Acting, Answered, problems_digest, prompts_per_batch, sample_answers
from espo_jax.evaluate.asked import drawn_by
from espo_jax.evaluate.drawing import drawn_answers
from espo_jax.evaluate.policies import Policy, open_policy
from espo_jax.evaluate.processing import make_processor
from espo_jax.evaluate.recording import join_parts, measured_scale, write_part
from espo_jax.evaluate.request import Request, asked_rule, check, experiment_for
from espo_jax.evaluate.settling import settled_answers, summarise_settled
from espo_jax.evaluate.stopping import summarise_stops, with_scale, with_value
from espo_jax.experiment import Experiment
from espo_jax.monitor.samples import SETTINGS
from espo_jax.parallel.memory import during
from espo_jax.parallel.storage import read_json
from espo_jax.rollout.processors import Processor
from espo_jax.stages.episodes import posed_width
from espo_jax.stages.loop import Interrupted, interruption
from espo_jax.types import StopReason


def evaluate(request: Request) -> dict[str, Any]:
  """Sample and grade the answers that are missing, then summarise all of them.

  Returns:
    The summary of `monitor.summarise_samples`, with more entries. `settings` has all settings that the answers depend on.
    `session` has the rows, tokens and seconds of the last session that sampled answers. With a stop rule, `stop` has the
    measures of `summarise_stops`, or of `summarise_settled` if the rule ends answers that are settled.

  Raises:
    RequestError: The request names something that does not exist, is inconsistent or does not fit this machine, or the problems
      cannot be used.
    ConfigError: The run's config does not fit this version.
    DeviceError: jax finds no device.
    OutOfMemory: A device or the host has no memory left.
    WeightsError: The weights cannot be used.
    CheckpointError: The checkpoint is damaged, or belongs to another model.
    OutputError: The output folder holds another evaluation.
    Interrupted: A signal interrupted the evaluation. The same call resumes it.
  """
  check(request)
  checkpoint = pathlib.Path(request.checkpoint).absolute()
  policy = open_policy(checkpoint, request.arm, request.step)
  output = pathlib.Path(request.output) if request.output else _default_output(checkpoint, policy, request.benchmark)
  if not policy.is_run:
    policy.config.data.today = parallel.from_first(lambda: _day_begun(output))
  width = 0 if request.benchmark else policy.config.rollout.prompt_width
  exp = experiment_for(policy, request)
  c = exp.config
  end = c.rollout.serial.end_of_thinking if request.end_of_thinking is None else request.end_of_thinking
  processor, drawer = make_processor(exp, request.processors, end), drawn_by(request.decoders)
  size = exp.task.size('test')
  wanted = request.problems or (size if request.benchmark and size else c.eval.problems)
  problems = exp.test_problems(wanted)
  if c.task.name == 'math':  # the width of the longest prompt, and for a run's own problems at least the run's width
    c.rollout.prompt_width = max(width, parallel.from_first(lambda: posed_width(exp, problems)))
  prompts = prompts_per_batch(exp, len(problems), samples=request.samples, rows=request.batch or c.eval.batch)
  settings = {
    'checkpoint': str(checkpoint),
    'arm': policy.arm,
    'step': policy.step,
    'weights': policy.weights,
    'benchmark': request.benchmark or '',
    'problems': len(problems),
    'problems_digest': problems_digest(exp.tagged(problems)),
    'samples': request.samples,
    'temperature': c.rollout.temperature if request.temperature is None else request.temperature,
    **{name: c.rollout[name] for name in ('top_p', 'top_k', 'min_p', 'horizon', 'slots')},
    'prompts_per_batch': prompts,
    'run_seed': c.seed,
    'seed': request.seed,
    'dtype': c.model.dtype,
    'param_dtype': c.model.param_dtype,
    **({'environment': c.environment.name} if c.environment.name else {}),
    **({'today': c.data.today} if c.data.today else {}),
    **({'record': True} if request.record else {}),
    **({'features': request.features} if request.features else {}),
    **({'processors': [one.label for one in request.processors], 'end_of_thinking': end} if request.processors else {}),
    **({'stop': request.stop, 'constants': dict(request.constants)} if request.stop else {}),
    **({'drawn_by': drawer.named.label} if drawer else {}),
  }
  session = _answer(exp, policy, problems, settings, output, processor, drawer.decoder.drawing if drawer else None)

  left_out = exp.task.findings()[:1] if c.data.on_error == 'skip' else []

  def bring_together() -> dict[str, Any]:
    for finding in left_out:
      monitor.atomic_write_text(output / finding.file, ''.join(monitor.to_json(entry) + '\n' for entry in finding.entries))
      if finding.entries:
        logging.warning('%s; see %s', finding.message, output / finding.file)
    path, last = output / 'summary.json', session
    if last is None and path.exists():
      last = read_json(path)['session']
    summary = {'settings': settings} | monitor.summarise_samples(monitor.read_samples(output), request.samples)
    if request.stop:
      measured = summarise_settled if stops.REGISTRY[request.stop]().settles else summarise_stops
      summary['stop'] = measured(monitor.read_samples(output))
    if request.record:
      total = len(problems) * request.samples
      join_parts(output, c.to_dict(), request.samples, total, constant_value=not policy.is_run)
    monitor.atomic_write_text(path, monitor.to_json(summary | {'session': last}, indent=2) + '\n')
    return summary | {'session': last, 'output': str(output)}

  return parallel.from_first(bring_together)


@during('sampling answers')
def _answer(
  exp: Experiment,
  policy: Policy,
  problems: Sequence[tasks.Problem],
  settings: dict[str, Any],
  output: pathlib.Path,
  processor: Processor | None,
  drawing: Drawing | None,
) -> dict[str, Any] | None:
  """Write the answers that are missing, and return what the session took; None if no answer is missing."""
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
    asked: dict[str, Any] = {'problems': problems, 'prompts': prompts, 'samples': samples}
    asked |= {name: settings[name] for name in ('temperature', 'seed')}
    answering: Callable[..., Iterator[Answered]] = functools.partial(sample_answers, exp, processor=processor, **asked)
    acting = None
    rule = asked_rule(exp.config, settings['stop'], settings['constants']) if 'stop' in settings else None
    if rule is not None and rule.probing is None:
      # an answer that a rule ended counts, whatever becomes of a row in training
      acting = Acting(rule._replace(reason=StopReason.STOPPED), stops.adaptive(rule))
      if not rule.settles or stops.is_users(settings['stop']):  # the package's own rules that settle answers read no scale
        scale = measured_scale(output, lambda: next(answering(params, record=True)))
        acting = with_scale(acting, scale)
        params = with_value(exp, policy, params, scale)
    answering = functools.partial(answering, record='record' in settings, features=settings.get('features', 0), acting=acting)
    if rule is not None and rule.probing is not None:
      answering = functools.partial(settled_answers, exp, rule=rule, **asked)
    if drawing is not None:
      answering = functools.partial(drawn_answers, exp, drawing=drawing, **asked)
    for batch in answering(params, start=start // samples):
      if batch.recorded is not None and parallel.is_first():
        write_part(output, lines // (prompts * samples), batch.recorded)
      lines += len(batch.answers)
      right += sum(answer.correct for answer in batch.answers)
      tokens += sum(answer.took for answer in batch.answers)
      seconds += batch.seconds
      if parallel.is_first():
        writer.write(answer._asdict() for answer in batch.answers)
        progress.update(lines, {'accuracy': right / (lines - start), 'tokens_per_second': tokens / seconds})
      if lines < total and parallel.any_process(signals.requested):
        raise Interrupted(f'evaluation: {lines} of {total} answers are in {output}')
    return {
      'answers': total - start,
      'tokens': tokens,
      'seconds': seconds,  # compilation included
      'tokens_per_second': tokens / seconds,
      'device': f'{jax.device_count()} x {jax.devices()[0].device_kind}',
      **monitor.machine(),
    }


def _default_output(checkpoint: pathlib.Path, policy: Policy, benchmark: str | None) -> pathlib.Path:
  if policy.is_run:
    return checkpoint / 'evaluations' / f'{policy.arm}-{policy.step}-{benchmark or "test"}'
  # A model's directory may belong to someone else, so nothing is written there.
  return pathlib.Path('evaluations') / f'{checkpoint.name}-{benchmark}'


def _day_begun(output: pathlib.Path) -> str:
  """Returns the date on which the evaluation in a folder was begun.

  It is today if the folder has no evaluation, and '' if the folder's settings have no date.
  """
  path = output / SETTINGS
  if not path.exists():
    return datetime.date.today().isoformat()
  try:
    return str(read_json(path).get('today', ''))
  except ValueError:  # reported when the folder is claimed
    return ''

"""Train a reasoner: warm start, calibration of exits, critic warm-up, then one arm of reinforcement learning a stop rule.

  python -m espo_jax.train --config=experiments/quickstart.py --workdir=runs/quickstart

The same command resumes a run that was interrupted, and does nothing to one that is done.
"""

import datetime
import functools
import json
import os
import pathlib
import shutil
import sys
from collections.abc import Callable, Mapping

import jax
import ml_collections
import numpy as np
from absl import app, flags, logging
from ml_collections import config_flags

from espo_jax import exits, monitor, parallel, steps
from espo_jax.commands import lower_fields, machine_errors
from espo_jax.configs import ConfigError, flatten, load_config, parse_flags, uses_reference, validate, warmup_updates, with_day
from espo_jax.evaluation import evaluate_params
from espo_jax.examples import write_examples
from espo_jax.experiment import Experiment, make_experiment, make_rule
from espo_jax.headline import headline
from espo_jax.learner import CheckpointError, TrainState, init_state
from espo_jax.memory import during
from espo_jax.model import Params
from espo_jax.policy import start_params
from espo_jax.stage import (
  INTERRUPTED,
  UNASKED,
  Interrupted,
  Interruption,
  Stage,
  Step,
  TrainingFailed,
  going_on,
  interruption,
  run_stage,
)
from espo_jax.stops import StopRule
from espo_jax.tasks import DataError, Task

_CONFIG = config_flags.DEFINE_config_file(
  'config', None, 'The experiment, a Python file with get_config().', lock_config=False, accept_new_attributes=True
)
_WORKDIR = flags.DEFINE_string('workdir', None, 'Where checkpoints, metrics and the report go.')
_CACHE = flags.DEFINE_string(
  'compilation_cache_dir', os.path.expanduser('~/.cache/espo_jax'), 'Compiled programs are kept here; empty for nowhere.'
)

Watch = Callable[[str, int, float], None]


def train(config: ml_collections.ConfigDict, workdir: str | pathlib.Path, watch: Watch | None = None) -> dict:
  """Run all stages that `config.stages` names and report.

  Args:
    config: A validated experiment.
    workdir: The experiment's folder; a run found there goes on.
    watch: Called with the arm, the update and its training accuracy after each update of an arm; what it raises ends the run.

  Returns:
    The summary, as in `summary.json`.

  Raises:
    ConfigError: Before any device is touched.
    Interrupted: A signal asked for it; the same call goes on.
    CheckpointError: A stage has checkpoints and none is whole, or they are another model's.
    DataError: A data file cannot be used.
    DeviceError: jax finds no device.
    OutOfMemory: A device or the host has no memory left.
    TrainingFailed: The loss or the gradients stayed non-finite.
  """
  workdir = pathlib.Path(workdir).absolute()
  validate(config)
  same_config(config, workdir / 'config.json')
  parallel.find_devices()  # an error that says what to do, before anything asks jax which process this is
  workdir.mkdir(parents=True, exist_ok=True)
  config = with_day(config, workdir, parallel.from_first(lambda: datetime.date.today().isoformat()))
  exp = make_experiment(config)
  if parallel.is_first():
    print(headline(exp, workdir), flush=True)
  report_data(exp.task, workdir)
  if parallel.is_first():
    monitor.write_run_info(workdir, config.to_dict(), jax.devices()[0].device_kind)
    exp.tokenizer.save_pretrained(workdir / 'tokenizer')

  arms = tuple(dict.fromkeys((*config.baselines, config.stop.name)))
  with interruption('the step at hand is finished and saved', 'the steps since the newest checkpoint') as signals:
    params = warm_start(exp, workdir, signals)
    evaluations = {'warm_start': evaluated(exp.with_exits(None), params, workdir / 'warm_start', signals)}
    if 'calibration' in config.stages:
      params = calibration(exp, params, workdir, signals)
      evaluations['calibration'] = evaluated(exp, params, workdir / 'calibration', signals)
      exit_curve(exp, params, workdir / 'calibration', signals)
    if 'rl' not in config.stages:
      return evaluations
    state, forked_at = critic_warmup(exp, params, workdir, signals)
    reference = params if uses_reference(exp.config) else None
    for arm in sorted(arms, key='random'.__eq__):  # last: it copies the rate of the others
      rule, trained = reinforce(exp, arm, state, forked_at, reference, workdir, signals, watch)
      evaluations[arm] = evaluated(exp, trained.params, workdir / 'arms' / arm, signals)
      examples = workdir / 'arms' / arm / 'examples.json'
      if not parallel.from_first(examples.exists):
        write_examples(exp, rule, trained, examples)
  return parallel.from_first(lambda: report(workdir, arms, evaluations))


# ---------------------------------------------------------------------------------------------------------------- stages


@during('warm start')
def warm_start(exp: Experiment, workdir: pathlib.Path, signals: Interruption) -> Params:
  """Supervised training on written solutions; or what another run has learned."""
  c = exp.config
  if c.start_from:
    return start_params(exp)
  params = exp.init_params()
  if 'warm_start' not in c.stages:
    return params
  never = make_rule(c, 'never')
  state = exp.on_mesh(init_state(params, steps.supervised_learner(exp).optimizer, never))
  stage = _stage(exp, 'warm start', workdir / 'warm_start', last=c.warm_start.steps, step=steps.supervised_step(exp))
  state, _ = run_stage(stage, state, signals)
  return state.params


@during('calibration')
def calibration(exp: Experiment, params: Params, workdir: pathlib.Path, signals: Interruption) -> Params:
  """The exits learn from the model at full depth."""
  c = exp.config
  never = make_rule(c, 'never')
  state = exp.on_mesh(init_state(_copy(params), steps.calibration_learner(exp).optimizer, never))
  step = steps.calibration_step(exp, params)
  stage = _stage(exp, 'calibration', workdir / 'calibration', last=c.calibration.steps, step=step)
  state, _ = run_stage(stage, state, signals)
  return state.params


@during('critic warm-up')
def critic_warmup(exp: Experiment, params: Params, workdir: pathlib.Path, signals: Interruption) -> tuple[TrainState, int]:
  """Updates without a stop rule, common to all arms, until the critic can be trusted; one where there is nothing to trust."""
  c = exp.config
  never = make_rule(c, 'never')
  params = exp.model.critic_from_policy(params)
  state = exp.on_mesh(init_state(_copy(params), steps.reinforcement_learner(exp, never).optimizer, never))
  stage = _stage(
    exp,
    'critic warm-up',
    workdir / 'critic_warmup',
    last=warmup_updates(c),
    step=steps.reinforcement_step(exp, never, params if uses_reference(exp.config) else None),
    finished=lambda metrics: bool(metrics['gate_open']),
  )
  return run_stage(stage, state, signals)


@during('reinforcement learning')
def reinforce(
  exp: Experiment,
  arm: str,
  state: TrainState,
  forked_at: int,
  reference: Params | None,
  workdir: pathlib.Path,
  signals: Interruption,
  watch: Watch | None = None,
) -> tuple[StopRule, TrainState]:
  """Reinforcement learning under the stop rule `arm`; its metrics begin with the critic warm-up's."""
  c = exp.config
  directory = workdir / 'arms' / arm
  matched = parallel.from_first(lambda: _matched_rate(workdir / 'arms' / c.stop.name)) if arm == 'random' else {}
  rule = make_rule(c, arm, **matched)
  parallel.from_first(lambda: _begin_arm(directory, workdir / 'critic_warmup'))
  step = steps.reinforcement_step(exp, rule, reference, directory / 'rollouts')
  stage = _stage(
    exp,
    monitor.arm_label(arm),
    directory,
    first=forked_at,
    last=c.learner.updates,
    step=step if watch is None else _watched(step, functools.partial(watch, arm)),
  )
  state, _ = run_stage(stage, exp.on_mesh(steps.fork(_copy(state), rule)), signals)
  return rule, state


@during('evaluation')
def evaluated(exp: Experiment, params: Params, directory: pathlib.Path, signals: Interruption = UNASKED) -> dict[str, float]:
  """The result on the test split; computed once."""
  path = directory / 'evaluation.json'
  if not parallel.from_first(path.exists):
    text = monitor.to_json(_evaluate(exp, params, monitor.arm_label(directory.name), signals), indent=2)
    if parallel.is_first():
      monitor.atomic_write_text(path, text)
  return parallel.from_first(lambda: json.loads(path.read_text()))


@during('evaluation')
def exit_curve(exp: Experiment, params: Params, directory: pathlib.Path, signals: Interruption = UNASKED) -> None:
  """Accuracy and depth of calibrated exits against the threshold on their heads, and at full depth; computed and drawn once."""
  path, picture, levels = directory / 'curve.json', directory / 'curve.png', exp.config.calibration.levels
  if not levels:
    return
  if not parallel.from_first(path.exists):
    by_level = exp.with_exits(exits.threshold())
    curve = [
      {'level': level} | _evaluate(by_level, params, f'exits at {level:g}', signals, exit_level=level) for level in levels
    ]
    whole = _evaluate(exp.with_exits(None), params, 'full depth', signals)
    curve.append({'level': None, 'depth': 1.0, 'greedy_depth': 1.0} | whole)
    if parallel.is_first():
      monitor.atomic_write_text(path, monitor.to_json(curve, indent=2))
  if parallel.is_first() and not picture.exists():
    with monitor.spared(picture):
      from espo_jax.monitor.depth import plot_exit_curve  # matplotlib is slow to import

      plot_exit_curve(json.loads(path.read_text()), picture)


def report_data(task: Task, workdir: pathlib.Path) -> None:
  """List what there is to know about the data in the run's folder, and warn of it."""
  findings = task.findings()  # on all processes, so that none waits long for another
  for finding in findings if parallel.is_first() else ():
    lines = (monitor.to_json(entry) + '\n' for entry in finding.entries)
    monitor.atomic_write_text(workdir / finding.file, ''.join(lines))
    if finding.entries:
      logging.warning('%s: %s; see %s', task.name, finding.message, workdir / finding.file)


def report(workdir: pathlib.Path, arms: tuple[str, ...], evaluations: Mapping[str, Mapping[str, float]]) -> dict:
  """Write `summary.json`, print the table, draw the plots."""
  summary = monitor.summarise(workdir, arms, evaluations, baseline=arms[0])
  written = monitor.write_summary(workdir, summary)
  print(f'{monitor.format_table(summary)}\nwrote {written}')
  with monitor.spared(workdir / 'plots'):
    from espo_jax.monitor import plots  # matplotlib is slow to import and only needed here

    print(''.join(f'wrote {path}\n' for path in plots.plot_all(workdir, arms, arms[0])), end='')
  return summary


# --------------------------------------------------------------------------------------------------------------- helpers


def _stage(exp: Experiment, name: str, directory: pathlib.Path, **kwargs) -> Stage:
  c = exp.config
  return Stage(
    name=name,
    directory=directory,
    checkpoint_every=c.checkpoint.every,
    keep_last=c.checkpoint.keep_last,
    keep_best=c.checkpoint.keep_best,
    max_bad_steps=c.learner.max_bad_steps,
    **{'first': 0} | kwargs,
  )


def _watched(step: Step, watch: Callable[[int, float], None]) -> Step:
  def watched(state: TrainState, number: int) -> tuple[TrainState, dict]:
    state, metrics = step(state, number)
    watch(number, float(jax.device_get(metrics['accuracy'])))
    return state, metrics

  return watched


def _evaluate(
  exp: Experiment, params: Params, name: str, signals: Interruption, exit_level: float | None = None
) -> dict[str, int | float]:
  """The result on the test split, unless a signal comes; then the same command begins it anew."""
  name = f'evaluation of {name}'

  def heed() -> None:
    if parallel.any_process(signals.requested):
      raise Interrupted(f'{name}: stopped, and is to be begun anew; what was trained before it is saved')

  return evaluate_params(exp, params, name, exit_level=exit_level, after_batch=heed)


def same_config(config: ml_collections.ConfigDict, path: pathlib.Path) -> None:
  """A run goes on under the config it began with, or not at all."""
  if not path.exists():
    return
  before, now = flatten(load_config(path)), flatten(with_day(config, path.parent))
  if changed := sorted(field for field in before.keys() | now.keys() if before.get(field) != now.get(field)):
    was = '{} = {!r} was {!r} in {}; fix: that value, or another --workdir'
    raise ConfigError([was.format(field, now.get(field), before.get(field), path) for field in changed])


def _begin_arm(directory: pathlib.Path, warmup: pathlib.Path) -> None:
  """Give an arm that has not begun the metrics of the critic warm-up."""
  if not (directory / 'checkpoints').exists():
    directory.mkdir(parents=True, exist_ok=True)
    shutil.copy(warmup / 'metrics.jsonl', directory / 'metrics.jsonl')


def _copy(tree):
  """A stage donates its state's buffers; what others still need is copied."""
  return jax.tree.map(lambda x: x.copy(), tree)


def _matched_rate(directory: pathlib.Path) -> dict[str, float]:
  """The arguments with which `random` stops as many rows as the arm under `directory` did on average."""
  rows = [row for row in monitor.read_metrics(directory) if row['stop/enabled']]
  rate = float(np.mean([row['stop/rate'] for row in rows]))
  length = float(np.mean([row['rollout/length_mean'] for row in rows]))
  return {'target_rate': rate, 'beta_0': -float(np.log(max(rate, 1e-6) / length)), 'eta': 1.0}


def keep_compiled(directory: str) -> None:
  """Keep compiled programs in `directory`; '' for nowhere."""
  if directory:
    jax.config.update('jax_compilation_cache_dir', directory)
    jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.5)


def main(argv: list[str]) -> None:
  """The command."""
  if len(argv) > 1:
    raise app.UsageError(f'unexpected arguments {argv[1:]}; every option is a flag, as --config.seed=1')
  for flag, example in ((_CONFIG, 'experiments/quickstart.py'), (_WORKDIR, 'runs/quickstart')):
    if not flag.value:
      sys.exit(f'error: --{flag.name} is missing; fix: --{flag.name}=..., such as {example}')
  logging.set_verbosity(logging.WARNING)  # orbax tells of every file at INFO
  keep_compiled(_CACHE.value)
  with parallel.job(), machine_errors(functools.partial(lower_fields, _CONFIG.value)):
    try:
      train(_CONFIG.value.lock(), str(_WORKDIR.value))
    except Interrupted as stopped:
      print(going_on(stopped, 'espo_jax.train', sys.argv[1:]), file=sys.stderr, flush=True)
      sys.exit(INTERRUPTED)
    except KeyboardInterrupt:
      again = going_on(Interrupted('ended at once; the newest checkpoint is saved'), 'espo_jax.train', sys.argv[1:])
      sys.exit(again)
    except (CheckpointError, ConfigError, DataError, TrainingFailed) as error:
      sys.exit(f'error: {error}')


if __name__ == '__main__':
  app.run(main, flags_parser=parse_flags)

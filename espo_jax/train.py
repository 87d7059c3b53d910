"""Train a reasoner: warm start, calibration of exits, critic warm-up, then one arm of reinforcement learning per stop rule.

  python -m espo_jax.train --config=experiments/quickstart.py --workdir=runs/quickstart

The same command resumes a run that was interrupted. It changes nothing about a run that is done.
"""

import datetime
import functools
import importlib.util
import json
import os
import pathlib
import sys
from collections.abc import Sequence

import jax
import ml_collections
from absl import app, flags, logging
from ml_collections import config_flags

from espo_jax import monitor, parallel
from espo_jax.commands import lower_fields, machine_errors
from espo_jax.configs import (
  AUTO,
  ConfigError,
  advice,
  best_dtype,
  parse_flags,
  uses_reference,
  validate,
  with_day,
  with_dtype,
)
from espo_jax.evaluate.examples import write_examples
from espo_jax.evaluate.policies import PLUGINS, plugins_of
from espo_jax.experiment import Experiment, make_experiment
from espo_jax.learner import CheckpointError
from espo_jax.parallel.memory import free_bytes
from espo_jax.parallel.storage import writing
from espo_jax.registry import Plugin, loaded_plugins
from espo_jax.rewards import RewardError
from espo_jax.stages.calibration import calibration
from espo_jax.stages.changes import changes_of, remember
from espo_jax.stages.critic_warmup import critic_warmup
from espo_jax.stages.episodes import check_writer
from espo_jax.stages.headline import headline
from espo_jax.stages.loop import INTERRUPTED, Interrupted, TrainingFailed, copy_tree, going_on, interruption
from espo_jax.stages.results import evaluated, exit_curve, report, report_data
from espo_jax.stages.rl import Watch, reinforce
from espo_jax.stages.warm_start import warm_start
from espo_jax.tasks import DataError

_CONFIG = config_flags.DEFINE_config_file(
  'config', None, 'The experiment, a Python file with get_config().', lock_config=False, accept_new_attributes=True
)
_WORKDIR = flags.DEFINE_string('workdir', None, 'Where checkpoints, metrics and the report go.')
_CACHE = flags.DEFINE_string(
  'compilation_cache_dir', os.path.expanduser('~/.cache/espo_jax'), 'Compiled programs are kept here; empty for nowhere.'
)
_LOG = flags.DEFINE_multi_enum(
  'log',
  [],
  monitor.TRACKERS,
  'An experiment tracker that is given metrics and rollouts while the run goes on; may be repeated.',
)
_CHANGED = flags.DEFINE_multi_string(
  'changed', [], 'A field in which a run that is resumed goes on with another value; may be repeated.'
)
_CHECK_MEMORY = flags.DEFINE_bool('check_memory', True, 'Whether a run that does not fit into memory is refused at its start.')


def train(
  config: ml_collections.ConfigDict,
  workdir: str | pathlib.Path,
  watch: Watch | None = None,
  *,
  check_memory: bool = True,
  log: Sequence[str] = (),
  changed: Sequence[str] = (),
) -> dict:
  """Runs all stages that `config.stages` names and reports on them.

  Args:
    config: The experiment.
    workdir: The experiment's folder. A run found there is resumed.
    watch: A function that is given the arm, each update and its training accuracy once its metrics are written. An
      exception that it raises ends the run.
    check_memory: Whether the programs of training are compiled before the first stage, to see whether they fit.
    log: Experiment trackers that the run is mirrored to: see `monitor.mirrored`.
    changed: The fields in which the run that is resumed goes on with the config's value.

  Returns:
    The summary, as in `summary.json`. Without the stage 'rl' it is the evaluations by stage.

  Raises:
    ConfigError: The config cannot run, or the run in the folder began with another config or other plugin files. Both are
      checked before any device is touched. It is a `DoesNotFit` if training needs more memory than there is.
    Interrupted: A signal interrupted the run. The same call resumes it.
    CheckpointError: A stage has checkpoints and none is complete, or they belong to another model.
    DataError: A data file cannot be used.
    DeviceError: jax finds no device.
    OutOfMemory: A device or the host has no memory left.
    RewardError: A reward that reads text failed.
    TrainingFailed: The loss or the gradients stayed non-finite.
  """
  workdir = pathlib.Path(workdir).absolute()
  validate(config)
  changes = changes_of(config, workdir, changed)
  same_plugins(workdir)
  platform = parallel.find_devices()[0].platform  # an error that says what to do, before jax is asked which process this is
  workdir.mkdir(parents=True, exist_ok=True)
  config = with_day(config, workdir, parallel.from_first(lambda: datetime.date.today().isoformat()))
  config = dtype_of_run(config, workdir, platform)
  exp = make_experiment(config)
  check_writer(exp)
  if parallel.is_first():
    print(headline(exp, workdir), flush=True)
    for told in advice(config):
      logging.warning('%s', told)
  if check_memory:  # before the config is written, because the run may need another one
    plan_memory(exp)
  report_data(exp.task, workdir)
  if parallel.is_first():
    remember(config, workdir, changes)
    monitor.write_run_info(workdir, config.to_dict(), jax.devices()[0].device_kind)
    monitor.atomic_write_text(workdir / PLUGINS, json.dumps([plugin._asdict() for plugin in loaded_plugins()], indent=2))
    with writing(workdir / 'tokenizer'):
      exp.tokenizer.save_pretrained(workdir / 'tokenizer')

  arms = tuple(dict.fromkeys((*config.baselines, config.stop.name)))
  trackers = log if parallel.is_first() else ()
  with (
    monitor.mirrored(workdir, trackers, config.to_dict()),
    interruption('the step at hand is finished and saved', 'the steps since the newest checkpoint') as signals,
  ):
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
    order = sorted(arms, key='random'.__eq__)  # 'random' is last, because it copies another arm's stop rate
    for arm in order:
      start = state if arm == order[-1] else copy_tree(state)
      rule, trained = reinforce(exp, arm, start, forked_at, reference, workdir, signals, watch)
      evaluations[arm] = evaluated(exp, trained.params, workdir / 'arms' / arm, signals)
      examples = workdir / 'arms' / arm / 'examples.json'
      if not parallel.from_first(examples.exists):
        write_examples(exp, rule, trained, examples)
      del trained  # the next arm needs that memory
  return parallel.from_first(lambda: report(workdir, arms, evaluations))


def plan_memory(exp: Experiment) -> None:
  """Compiles the programs of training, prints what they need, and raises DoesNotFit if that is more than there is."""
  from espo_jax.compile_check import plan  # only needed here

  mine = [device for device in exp.mesh.devices.flat if device.process_index == jax.process_index()]
  found = plan.check_memory(exp, parallel.from_first(lambda: free_bytes(len(mine))))
  if found is not None and parallel.is_first():
    print(plan.describe(found), flush=True)


def dtype_of_run(config: ml_collections.ConfigDict, workdir: pathlib.Path, platform: str) -> ml_collections.ConfigDict:
  """Returns the config with a dtype in place of 'auto', and warns if the run began on a machine with another best dtype."""
  filled = with_dtype(config, platform, workdir)
  if config.model.dtype == AUTO and filled.model.dtype != best_dtype(platform) and parallel.is_first():
    logging.warning(
      'model.dtype = %r is kept, with which the run began on another platform; a new run on %s computes in %s',
      filled.model.dtype,
      platform,
      best_dtype(platform),
    )
  return filled


def same_plugins(workdir: pathlib.Path) -> None:
  """Raises ConfigError if other plugin files are loaded than those with which the run in `workdir` began."""
  if not (workdir / 'config.json').exists():
    return
  began, now = plugins_of(workdir), loaded_plugins()
  if sorted(plugin.digest for plugin in began) != sorted(plugin.digest for plugin in now):
    flags = ' '.join(f'--plugins={plugin.path}' for plugin in began) or 'no --plugins'
    told = f'{_listed(now)}; the run in {workdir} began with {_listed(began)}'
    raise ConfigError([f'--plugins: {told}; fix: {flags} as it was then, or another --workdir'])


def _listed(plugins: Sequence[Plugin]) -> str:
  return ', '.join(f'{pathlib.Path(plugin.path).name} ({plugin.digest})' for plugin in plugins) or 'no file'


def keep_compiled(directory: str) -> None:
  """Keeps compiled programs in `directory`; with '' they are not kept."""
  if directory:
    jax.config.update('jax_compilation_cache_dir', directory)
    jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.1)


def main(argv: list[str]) -> None:
  """Runs the command."""
  if len(argv) > 1:
    raise app.UsageError(f'unexpected arguments {argv[1:]}; every option is a flag, as --config.seed=1')
  for flag, example in ((_CONFIG, 'experiments/quickstart.py'), (_WORKDIR, 'runs/quickstart')):
    if not flag.value:
      sys.exit(f'error: --{flag.name} is missing; fix: --{flag.name}=..., such as {example}')
  for tracker in _LOG.value:
    if importlib.util.find_spec(tracker) is None:
      sys.exit(f"error: --log={tracker}: its package is not installed; fix: pip install -e '.[{tracker}]'")
  logging.set_verbosity(logging.WARNING)  # orbax logs every file at INFO
  keep_compiled(_CACHE.value)
  with parallel.job(), machine_errors(functools.partial(lower_fields, _CONFIG.value)):
    try:
      train(_CONFIG.value.lock(), str(_WORKDIR.value), check_memory=_CHECK_MEMORY.value, log=_LOG.value, changed=_CHANGED.value)
    except Interrupted as stopped:
      print(going_on(stopped, 'espo_jax.train', sys.argv[1:]), file=sys.stderr, flush=True)
      sys.exit(INTERRUPTED)
    except KeyboardInterrupt:
      again = going_on(Interrupted('ended at once; the newest checkpoint is saved'), 'espo_jax.train', sys.argv[1:])
      sys.exit(again)
    except (CheckpointError, ConfigError, DataError, RewardError, TrainingFailed) as error:
      sys.exit(f'error: {error}')


if __name__ == '__main__':
  app.run(main, flags_parser=parse_flags)

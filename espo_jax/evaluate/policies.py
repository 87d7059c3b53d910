"""Opens a policy for evaluation: a checkpoint of a run, or a Hugging Face model directory."""

import datetime
import json
import pathlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import ml_collections
from absl import logging

from espo_jax import parallel
from espo_jax.configs import AUTO, STAGES, ConfigError, default_config, flatten, load_config, run_of, validate
from espo_jax.experiment import Experiment, make_experiment
from espo_jax.learner import CheckpointError
from espo_jax.learner.checkpoint import Unreadable, load, none_whole, survey
from espo_jax.learner.damage import is_done
from espo_jax.model import Params, complete
from espo_jax.names import download, hub_name
from espo_jax.parallel.memory import LOADING, during
from espo_jax.parallel.storage import DamagedFile, read_json
from espo_jax.registry import Plugin, loaded_plugins
from espo_jax.stages.changes import stage_origin
from espo_jax.tasks import DataError

_HEADS = ('critic', 'value', 'exit_heads')  # parameters that a policy can lack
_ADAPTERS = ('lora_a', 'lora_b')

PLUGINS = 'plugins.json'  # lists the users' files with which a run was begun
HORIZON, TEMPERATURE, DTYPE, PROMPT = 4096, 0.6, 'bfloat16', 'chat'  # the settings for a Hugging Face directory, which has none


class RequestError(ValueError):
  """A request for an evaluation that cannot be met. The message names the flag, its value and the fix."""


class Policy(NamedTuple):
  """The policy that is evaluated.

  Attributes:
    config: the run's config, or the defaults for a Hugging Face directory.
    is_run: whether the policy comes from a run and not from a Hugging Face directory.
    arm: the arm or stage of the run; '' without a run.
    step: the checkpoint's step; None without a run.
    weights: a description of the files, which changes when the files change.
    load: the function that reads the parameters to the experiment's mesh. It raises CheckpointError if they cannot be read or
      belong to another model.
  """

  config: ml_collections.ConfigDict
  is_run: bool
  arm: str
  step: int | None
  weights: str
  load: Callable[[Experiment], Params]


def open_policy(checkpoint: pathlib.Path, arm: str | None = None, step: int | None = None) -> Policy:
  """Find a policy. Its parameters are read later, and the working directory may change until then.

  Args:
    checkpoint: The folder of a run, or a Hugging Face directory.
    arm: An arm of the run, or a stage before the arms; None for the main arm, or for the last stage if there are no arms.
    step: A step that has a checkpoint; None for the newest complete one. Newer checkpoints that are incomplete are left alone,
      and a warning names each.

  Raises:
    RequestError: There is no such folder, arm or step.
    ConfigError: The run's config does not fit this version.
    CheckpointError: The checkpoint is damaged, or all checkpoints are.
  """
  checkpoint = checkpoint.absolute()  # orbax needs an absolute path
  path = checkpoint / 'config.json'
  if name := hub_name(checkpoint):
    raise RequestError(f'--checkpoint={name}: no such folder here; fix: the folder of a run, or for a model: {download(name)}')
  if not path.is_file():
    raise RequestError(
      f'--checkpoint={checkpoint} holds no config.json; fix: the folder of a run of espo_jax.train, or a Hugging Face '
      'directory (hf download OWNER/NAME --local-dir models/NAME makes one)'
    )
  try:
    found = json.loads(path.read_text())
  except (ValueError, RecursionError) as error:
    raise RequestError(f'{path}: not JSON ({error}); fix: the config.json of a run or of a Hugging Face directory') from error
  if not isinstance(found, dict):
    raise RequestError(f'{path}: no JSON object; fix: the config.json of a run or of a Hugging Face directory')
  if 'model_type' not in found:
    return _of_run(checkpoint, arm, step)
  for flag, value in (('arm', arm), ('step', step)):
    if value is not None:
      raise RequestError(f'--{flag}={value}: {checkpoint} is a Hugging Face directory, which has no {flag}s; fix: leave it out')
  config = default_config()
  config.stages = ()
  config.task.name = 'math'
  config.task.options.prompt = PROMPT
  config.model.path = str(checkpoint)
  config.model.param_dtype = DTYPE
  config.objective.name = 'grpo'  # its values are one number: a critic's head would be random
  config.rollout.horizon, config.rollout.temperature = HORIZON, TEMPERATURE
  return Policy(config.lock(), False, '', None, _stamp(checkpoint, '*.safetensors'), lambda exp: exp.init_params())


def plugins_of(workdir: pathlib.Path) -> list[Plugin]:
  """Returns the users' files with which a run was begun."""
  path = workdir / PLUGINS
  try:
    return [Plugin(**found) for found in read_json(path, list)] if path.exists() else []
  except TypeError as error:
    raise DamagedFile(f'{path}: not a list of plugin files ({error}); fix: a copy of it') from error


def experiment_of(checkpoint: pathlib.Path, policy: Policy) -> Experiment:
  """Makes the experiment of a run's policy from the run's config.

  Raises:
    RequestError: The run's config does not fit this machine, or its data, from which the tokenizer comes, cannot be used.
  """
  try:
    validate(policy.config, training=False)
    return make_experiment(policy.config)
  except (ConfigError, DataError) as error:
    raise in_words_of(checkpoint, error, is_run=True) from error


def in_words_of(
  checkpoint: pathlib.Path, error: ValueError, *, is_run: bool, flags: Iterable[tuple[str, str]] = ()
) -> RequestError:
  """Rewrites an error about config fields for a command that has no config fields.

  The message names the command's own flags, or the config.json of the run that has the fields.

  Args:
    checkpoint: The folder of the run, or the Hugging Face directory.
    error: The error about the config.
    is_run: Whether the checkpoint is a run and not a Hugging Face directory.
    flags: Pairs of a field as the error may write it and the command's flag for it.
  """
  message = '\n'.join(error.problems) if isinstance(error, ConfigError) else str(error)
  for field, flag in flags:
    message = message.replace(field, flag)
  message = re.sub(r'--config\.([\w.]+)=([^\s;,)]+)', r'\1 = \2', message)
  dotted = [field for field in flatten(default_config()) if '.' in field]
  if is_run and (isinstance(error, ConfigError) or any(re.search(rf'(?<![\w.]){field}(?![\w.])', message) for field in dotted)):
    message = f'{checkpoint / "config.json"}: {message}'
  loaded = {plugin.digest for plugin in loaded_plugins()}
  if is_run and (lacking := [plugin.path for plugin in plugins_of(checkpoint) if plugin.digest not in loaded]):
    flags_of_run = ' '.join(f'--plugins={path}' for path in lacking)
    message += f'\n  the run was trained with files of its user; fix: {flags_of_run}, if you trust them'
  return RequestError(message)


@during(LOADING)
def start_params(exp: Experiment) -> Params:
  """Reads the last parameters of `start_from`, which is a run, an arm or a stage.

  Heads and adapters that are missing there are newly initialised.

  Raises:
    ConfigError: That run, arm or stage is not done, or belongs to another model.
  """
  run, part = run_of(pathlib.Path(exp.config.start_from).absolute())
  named = f'start_from = {exp.config.start_from!r}'
  try:
    policy = open_policy(run, part)
    checkpoint = _stages(run)[policy.arm] / 'checkpoints' / str(policy.step)
    if not parallel.from_first(lambda: is_done(checkpoint)):
      raise ConfigError([f'{named}: its stage {policy.arm!r} is not done; fix: run it to its end first'])
    given = _load(checkpoint, exp, lacking=(*_HEADS, *_ADAPTERS))
    return complete(given, exp.model.init_boxed, exp.key('init', 0), exp.mesh)
  except (RequestError, CheckpointError) as error:
    raise ConfigError([f'{named}: {error}']) from error


def _of_run(workdir: pathlib.Path, arm: str | None, step: int | None) -> Policy:
  config = load_config(workdir / 'config.json')
  if not config.stages and arm is None:
    raise RequestError(
      f'--checkpoint={workdir}: its config trains nothing, as that of an evaluation; fix: the folder of a run of espo_jax.train'
    )
  arm = arm or (config.stop.name if 'rl' in config.stages else config.stages[-1])
  arms = _stages(workdir)
  if arm not in arms:
    raise RequestError(f'--arm={arm}: no checkpoints of it under {workdir}; fix: {" or ".join(arms) or "train it first"}')
  directory = arms[arm] / 'checkpoints'
  step = _whole_step(directory, arm, step, stage_origin(config, arm))
  checkpoint = directory / str(step)
  config.stages, config.start_from = (), ''  # nothing is trained
  config.model.attention = AUTO  # the kernel of this machine's devices, not of the run's machine
  if arm == 'warm_start':
    config.exits.policy = 'never'  # the exits are not trained yet
  if config.data.eval_path:
    config.data.eval_benchmark = config.data.eval_benchmark or config.data.benchmark
    config.data.path = config.data.benchmark = ''  # the train split may not be at hand
  return Policy(config, True, arm, step, _stamp(checkpoint, '**/*'), lambda exp: _load(checkpoint, exp))


def _whole_step(directory: pathlib.Path, arm: str, step: int | None, origin: Mapping[str, Any]) -> int:
  found = survey(directory, origin)
  whole = [number for number, reason in found.items() if not reason]
  if step is not None and step not in found:
    raise RequestError(f'--step={step}: no such checkpoint of {arm}; fix: {" or ".join(map(str, whole or found))}')
  if not whole:
    raise CheckpointError(f'{none_whole(directory, found)}; fix: a copy of one of them, or train it anew')
  if step is not None and found[step]:
    fix = ' or '.join(f'--step={number}' for number in whole)
    raise CheckpointError(f'--step={step}: {directory / str(step)} cannot be read: {found[step]}; fix: {fix}')
  if step is None:
    for number in found if parallel.is_first() else ():
      if number > whole[-1]:
        logging.warning(
          '%s cannot be read: %s; it is left alone, and step %d is used', directory / str(number), found[number], whole[-1]
        )
  return whole[-1] if step is None else step


@during(LOADING)
def _load(checkpoint: pathlib.Path, exp: Experiment, lacking: Sequence[str] = ()) -> Params:
  """Reads the parameters of a checkpoint. If one process cannot read its part, all processes raise the error."""
  try:
    return load(checkpoint, {'params': exp.abstract_params()}, extra=_HEADS, lacking=lacking)['params']
  except Unreadable as error:
    fix = 'another --step, or move the folder away'
    raise CheckpointError(f'{checkpoint} cannot be read: {error}; fix: {fix}') from error


def _stages(workdir: pathlib.Path) -> dict[str, pathlib.Path]:
  """Returns the folders of a run that have checkpoints, by the name of the stage or arm."""
  folders = [*(workdir / stage for stage in STAGES), *sorted((workdir / 'arms').glob('*'))]
  return {path.name: path for path in folders if any(found.name.isdecimal() for found in (path / 'checkpoints').glob('*'))}


def _stamp(directory: pathlib.Path, pattern: str) -> str:
  """Describes files by size and modification time, which differ for other weights. Hashing the content would take long."""
  stats: list[Any] = [path.stat() for path in directory.glob(pattern) if path.is_file()]
  newest = datetime.datetime.fromtimestamp(max((stat.st_mtime for stat in stats), default=0.0), datetime.UTC)
  return f'{sum(stat.st_size for stat in stats)} bytes in {len(stats)} files, the newest of {newest.isoformat()}'

"""Checks `config.start_from`, whose parameters a run starts from: both need the same model and tokenizer."""

import dataclasses
import pathlib
from collections.abc import Iterator

import ml_collections

from espo_jax import tasks
from espo_jax.configs.data import task_arguments
from espo_jax.configs.fields import ConfigError, flatten
from espo_jax.configs.reading import load_config, read_config_json, run_of
from espo_jax.model import ExitHeads
from espo_jax.names import download, hub_name
from espo_jax.tasks.pretrained import load_tokenizer

_MAY_DIFFER = ('model.dtype', 'model.attention', 'model.paged_kernels')  # these change how a model computes, not its parameters


def start_problems(config: ml_collections.ConfigDict) -> Iterator[str]:
  """Yields what is wrong with `start_from`. The parameters of that run are not read."""
  if not config.start_from:
    return
  folder, named = pathlib.Path(config.start_from), f'start_from = {config.start_from!r}'
  run, part = run_of(folder)
  if 'warm_start' in config.stages:
    rest = tuple(stage for stage in config.stages if stage != 'warm_start')
    yield f'{named} with stages = {config.stages}: that run takes the place of a warm start; fix: stages = {rest}'
  if name := hub_name(run):
    yield f'{named}: no such folder here; fix: the folder of a run, or for a model --config.model.path: {download(name)}'
    return
  if not (run / 'config.json').is_file():
    yield f'{named}: holds no config.json; fix: the folder of a run of espo_jax.train, or of an arm or stage in it'
    return
  if part is not None and not (folder / 'checkpoints').is_dir():
    trained = sorted(str(path.parent) for depth in ('*', 'arms/*') for path in run.glob(f'{depth}/checkpoints'))
    yield f'{named}: has no checkpoints; fix: {" or ".join(trained) or "train it first"}'
    return
  try:
    if 'model_type' in read_config_json(run / 'config.json'):
      yield f"{named}: a Hugging Face directory, not a run; fix: --config.model.path={config.start_from}, and start_from = ''"
      return
    theirs = load_config(run / 'config.json')
  except (ConfigError, ValueError) as error:
    yield f'{named}: {error}; fix: a run of this version'
    return
  yield from (f'{named}: {problem}' for problem in model_differences(config, theirs))
  if (run / 'tokenizer').is_dir():
    mine, saved = _vocabulary(config), load_tokenizer(str(run / 'tokenizer')).get_vocab()
    if mine != saved:
      differing = sorted({token for token, _ in mine.items() ^ saved.items()})
      yield (
        f'{named}: its tokenizer has {len(saved)} tokens and this one {len(mine)}, which differ in {differing[:5]}; '
        'fix: the task.options, or the model.path, of that run'
      )


def model_differences(config: ml_collections.ConfigDict, theirs: ml_collections.ConfigDict) -> Iterator[str]:
  """Yields the differences between the model of `config` and the model of the run that it starts from."""
  before, now = flatten(theirs.model, 'model.'), flatten(config.model, 'model.')
  if config.exits.every and 'calibration' in theirs.stages:  # heads that were trained for other exits are of no use
    for name in (field.name for field in dataclasses.fields(ExitHeads) if field.name != 'alone'):
      before[f'exits.{name}'], now[f'exits.{name}'] = theirs.exits[name], config.exits[name]
  for field, value in now.items():
    if field not in _MAY_DIFFER and before.get(field) != value:
      yield f'its {field} is {before.get(field)!r} and this one {value!r}; fix: {field} = {before.get(field)!r}'


def _vocabulary(config: ml_collections.ConfigDict) -> dict[str, int]:
  """The token ids of the config's tokenizer, without the task's data."""
  if config.model.path:
    return load_tokenizer(config.model.path).get_vocab()
  return tasks.get(config.task.name, **task_arguments(config)).tokenizer().get_vocab()

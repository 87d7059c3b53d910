"""Plans the runs of a comparison: their configs, folders and commands."""

import dataclasses
import pathlib
import runpy
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import ml_collections

from espo_jax.configs import ConfigError, flatten, model_differences, validate
from espo_jax.configs.fields import near_field
from espo_jax.registry import loaded_plugins
from espo_jax.sweep.spec import START, Sweep


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
  """One run of `espo_jax.train`.

  Attributes:
    name: The name of the run's folder: `start`, or the first arm that the run serves.
    seed: The run's seed.
    arms: The arms that the run serves, each with the stop rule whose results the arm has. The start serves no arm.
    config: The whole config.
    workdir: The run's folder.
    command: The command that runs it alone.
  """

  name: str
  seed: int
  arms: Mapping[str, str]
  config: ml_collections.ConfigDict
  workdir: pathlib.Path
  command: str


def plan(sweep: Sweep, workdir: pathlib.Path) -> list[Run]:
  """Returns every run of every seed in order, with a seed's start before its arms. All configs are checked first.

  Raises:
    ConfigError: A config cannot run. Each line of the message names the arm.
  """
  check_arms(sweep, list(_configs(sweep)))
  return [run for seed in sweep.seeds for run in _runs(sweep, seed, workdir / f'seed_{seed}')]


def check_arms(sweep: Sweep, names: Sequence[str]) -> None:
  """Checks the configs of some arms, or of what a seed shares.

  Raises:
    ConfigError: A config cannot run. Each line of the message names the arm.
  """
  problems = [problem for arm in names for problem in _config_problems(sweep, arm)]
  if problems:
    raise ConfigError(dict.fromkeys(problems))


def _runs(sweep: Sweep, seed: int, folder: pathlib.Path) -> Iterator[Run]:
  start = {'start_from': str(folder / START)} if sweep.shared_stages else {}
  runs: list[tuple[str, dict[str, str], dict[str, Any], ml_collections.ConfigDict]] = []
  for name, (overrides, arms) in _configs(sweep).items():
    overrides = overrides | {'seed': seed} | ({} if name == START else start)
    config = configured(sweep.base, overrides)
    same = next((run for run in runs if flatten(run[3]) == flatten(config)), None)
    if same is None:
      runs.append((name, arms, overrides, config))
    else:
      same[1].update(arms)
  for name, arms, overrides, config in runs:
    flags = [f'--config={sweep.base}', f'--workdir={folder / name}']
    flags += [f'--config.{field}={value}' for field, value in overrides.items()]
    flags += [f'--plugins={plugin.path}' for plugin in loaded_plugins()]
    command = shlex.join(['python', '-m', 'espo_jax.train', *flags])
    yield Run(name, seed, arms, config.lock(), folder / name, command)


def _configs(sweep: Sweep) -> dict[str, tuple[dict[str, Any], dict[str, str]]]:
  """Returns the overrides of the start and of each arm by name, with the arm's stop rule."""
  stages = tuple(configured(sweep.base, sweep.common).stages)
  rest = {'stages': tuple(stage for stage in stages if stage not in sweep.shared_stages)}
  configs: dict[str, tuple[dict[str, Any], dict[str, str]]] = {}
  if sweep.shared_stages:
    configs[START] = ({**sweep.common, 'stages': sweep.shared_stages}, {})
  for name, overrides in sweep.arms.items():
    merged = {**sweep.common, **rest, **overrides}
    rule = sweep.rules.get(name) or merged.get('stop.name') or configured(sweep.base, {}).stop.name
    configs[name] = (merged, {name: rule})
  return configs


def _config_problems(sweep: Sweep, name: str) -> Iterator[str]:
  overrides, arms = _configs(sweep)[name]
  of = f'arm {name!r}' if arms else 'what a seed shares'
  for field in ('seed', 'start_from'):
    if field in overrides:
      yield f"{of}: {field} is the sweep's to set; fix: leave it out{', and name seeds' if field == 'seed' else ''}"
  try:
    config = configured(sweep.base, overrides)
    validate(config)
  except ConfigError as error:
    yield from (f'{of}: {problem}' for problem in error.problems)
    return
  if not arms:
    if 'rl' in config.stages:
      yield f'{of}: shared_stages = {sweep.shared_stages}: arms reinforce; fix: stages before that'
    return
  if 'rl' not in config.stages:
    yield f"{of}: stages = {config.stages}: there is nothing to compare without reinforcement learning; fix: add 'rl'"
  trained = (*config.baselines, config.stop.name)
  if arms[name] not in trained:
    yield f'{of}: its run trains the stop rules {", ".join(trained)}, and not rules[{name!r}] = {arms[name]!r}; fix: baselines'
  if sweep.early_end and len(set(trained)) > 1:
    yield f'{of}: baselines = {config.baselines}: early_end ends no run that trains several stop rules; fix: baselines = ()'
  if sweep.shared_stages:
    start = configured(sweep.base, _configs(sweep)[START][0])
    yield from (f'{of} against what a seed shares: {problem}' for problem in model_differences(config, start))


def configured(base: str, overrides: Mapping[str, Any]) -> ml_collections.ConfigDict:
  """Returns the config of a file with some fields set, equal to the one of `espo_jax.train` with the same flags."""
  file, *argument = base.split(':', 1)
  try:
    config = runpy.run_path(file)['get_config'](*argument)
  except Exception as error:  # a config file is code and may raise anything
    raise ConfigError([f'base = {base!r}: {type(error).__name__}: {error}']) from error
  problems = []
  for field, value in overrides.items():
    *sections, last = field.split('.')
    try:
      holder = config
      for section in sections:
        holder = holder[section]
      holder[last] = value
    except (KeyError, TypeError, AttributeError) as error:
      fix = near_field(field, flatten(config)) if not isinstance(error, TypeError) else str(error)
      problems.append(f'{field} = {value!r}: cannot be set; {fix}')
  if problems:
    raise ConfigError(problems)
  return config

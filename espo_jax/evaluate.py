"""Evaluate a checkpoint of a run on the test split.

  python -m espo_jax.evaluate --workdir=runs/quickstart [--arm=espo] [--step=60] [--problems=512]

Without flags, the newest checkpoint of the run's main arm. Every policy of a run is asked the same problems with the same
random numbers. The result is printed, and written beside the arm's checkpoints as `evaluation-<step>.json`.
"""

import argparse
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import jax
from absl import logging
from orbax.checkpoint.experimental import v1 as ocp

from espo_jax import monitor
from espo_jax.configs import ConfigError, load_config, validate
from espo_jax.evaluation import evaluate_params
from espo_jax.experiment import Experiment, make_experiment
from espo_jax.model import Params
from espo_jax.tasks import DataError


def evaluate(
  workdir: str | pathlib.Path, arm: str | None = None, step: int | None = None, problems: int | None = None
) -> dict[str, Any]:
  """Evaluate the policy of `arm` after `step`.

  Args:
    workdir: The folder of a run.
    arm: An arm or a stage before the arms; None for the run's main arm, or the warm start where there are no arms.
    step: A step that has a checkpoint; None for the newest.
    problems: How many of the test split; None for `eval.problems`.

  Returns:
    What `evaluate_params` returns, with `arm`, `step` and the 95 % Wilson intervals `interval` and `greedy_interval`.

  Raises:
    FileNotFoundError: There is no such run, arm or step.
    ConfigError: The run's config does not fit this version or this machine's files, or `problems` not its mesh.
    DataError: A data file cannot be used.
  """
  workdir = pathlib.Path(workdir).absolute()
  if not (workdir / 'config.json').is_file():
    raise FileNotFoundError(f'--workdir={workdir} holds no config.json; fix: the folder of a run of espo_jax.train')
  config = load_config(workdir / 'config.json')
  if problems is not None:
    config.eval.problems = problems
  validate(config)
  arm = arm or (config.stop.name if 'rl' in config.stages else 'warm_start')
  directory = _arm_directory(workdir, arm)
  step = _step(directory, step)
  exp = make_experiment(config)
  result: dict[str, Any] = {
    'arm': arm,
    'step': step,
    **evaluate_params(exp, load_params(exp, directory / 'checkpoints' / str(step))),
  }
  for prefix in ('', 'greedy_'):
    result[f'{prefix}interval'] = monitor.wilson(int(result[f'{prefix}correct']), result['problems'])
  monitor.atomic_write_text(directory / f'evaluation-{step}.json', monitor.to_json(result, indent=2) + '\n')
  return result


def load_params(exp: Experiment, checkpoint: pathlib.Path) -> Params:
  """The parameters of a checkpoint and nothing else of it, on the experiment's mesh."""
  like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), exp.init_params())
  context = ocp.Context()
  context.pytree.loading.partial_load = True
  with context:  # and no checkpointer: it would clean up what a run still in progress is writing
    return ocp.load(checkpoint, {'params': like})['params']


def _arm_directory(workdir: pathlib.Path, arm: str) -> pathlib.Path:
  candidates = [workdir / 'warm_start', workdir / 'critic_warmup', *sorted((workdir / 'arms').glob('*'))]
  found = {path.name: path for path in candidates if _steps(path)}
  if arm not in found:
    raise FileNotFoundError(
      f'--arm={arm}: no checkpoints of it under {workdir}; there are those of {", ".join(found) or "no arm"}'
    )
  return found[arm]


def _step(directory: pathlib.Path, step: int | None) -> int:
  steps = _steps(directory)
  if step is not None and step not in steps:
    raise FileNotFoundError(f'--step={step}: no such checkpoint under {directory}; there are {", ".join(map(str, steps))}')
  return steps[-1] if step is None else step


def _steps(directory: pathlib.Path) -> list[int]:
  checkpoints = directory / 'checkpoints'
  return sorted(int(path.name) for path in checkpoints.glob('*') if path.name.isdigit())


def main(argv: Sequence[str]) -> None:
  """The command."""
  parser = argparse.ArgumentParser(prog='python -m espo_jax.evaluate', description='Evaluate a checkpoint on the test split.')
  parser.add_argument('--workdir', required=True, help='the folder of a run of espo_jax.train')
  parser.add_argument('--arm', help="a stop rule's arm, warm_start or critic_warmup; by default the run's main arm")
  parser.add_argument('--step', type=int, help='a step that has a checkpoint; by default the newest')
  parser.add_argument('--problems', type=int, help="how many of the test split; by default the run's eval.problems")
  logging.set_verbosity(logging.WARNING)  # orbax tells of every file at INFO
  try:
    result = evaluate(**vars(parser.parse_args(argv)))
  except (ConfigError, DataError, FileNotFoundError) as error:
    sys.exit(f'error: {error}')
  print(
    f'{monitor.arm_label(result["arm"])}, step {result["step"]}, {result["problems"]} test problems; [95 % Wilson interval]'
  )
  for name, prefix in (('accuracy', ''), ('greedy accuracy', 'greedy_')):
    low, high = result[f'{prefix}interval']
    print(f'{name:15}  {100 * result[f"{prefix}accuracy"]:.1f} % [{100 * low:.1f}, {100 * high:.1f}]')


if __name__ == '__main__':
  main(sys.argv[1:])

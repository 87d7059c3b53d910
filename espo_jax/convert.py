"""Write a trained policy as a Hugging Face directory, for transformers, vLLM and every other program that reads one.

  python -m espo_jax.convert --checkpoint=runs/quickstart --output=models/quickstart [--arm=espo] [--step=60]

Adapters are merged into the weights. The value head is left out.
"""

import argparse
import pathlib
import sys
from collections.abc import Sequence

from absl import logging

from espo_jax.commands import CommandParser, lower_flags, machine_errors
from espo_jax.configs import ConfigError
from espo_jax.evaluate.policies import RequestError, experiment_of, open_policy
from espo_jax.learner import CheckpointError
from espo_jax.model import WeightsError, save_hf


def convert(
  checkpoint: str | pathlib.Path, output: str | pathlib.Path, arm: str | None = None, step: int | None = None
) -> None:
  """Writes the policy of `arm` after `step`, with its tokenizer and its end tokens.

  Args:
    checkpoint: The folder of a run.
    output: The directory to write, which must not exist.
    arm: An arm, or a stage before the arms; None for the run's main arm.
    step: A step that has a checkpoint; None for the newest complete one.

  Raises:
    RequestError: There is no such run, arm or step, the run's config does not fit this machine, or its data, from which the
      tokenizer comes, cannot be used.
    WeightsError: The output exists, or the format cannot express the model.
    ConfigError: The run's config does not fit this version.
    CheckpointError: The checkpoint is damaged, or belongs to another model.
  """
  policy = open_policy(pathlib.Path(checkpoint).absolute(), arm, step)
  if not policy.is_run:
    raise RequestError(f'--checkpoint={checkpoint} is a Hugging Face directory already; fix: the folder of a run')
  exp = experiment_of(pathlib.Path(checkpoint), policy)
  save_hf(output, exp.model.config, policy.load(exp)['policy'], tokenizer=exp.tokenizer, end_tokens=exp.end_tokens)


@machine_errors(lambda phase: lower_flags({}, 'JAX_PLATFORMS=cpu, which has the memory of the host, or a larger host'))
def main(argv: Sequence[str]) -> None:
  """Runs the command."""
  parser = CommandParser(
    prog='python -m espo_jax.convert', description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--checkpoint', required=True, help='the folder of a run of espo_jax.train')
  parser.add_argument('--output', required=True, help='the directory to write; must not exist')
  parser.add_argument('--arm', help="a stop rule's arm, warm_start or critic_warmup; by default the run's main arm")
  parser.add_argument('--step', type=int, help='a step that has a checkpoint; by default the newest')
  logging.set_verbosity(logging.WARNING)  # orbax tells of every file at INFO
  args = parser.parse_args(argv)
  try:
    convert(**vars(args))
  except (RequestError, CheckpointError, ConfigError, WeightsError) as error:
    sys.exit(f'error: {error}')
  print(f'wrote {args.output}')


if __name__ == '__main__':
  main(sys.argv[1:])

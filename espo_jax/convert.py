"""Writes a trained policy, or a model in GGUF, as a Hugging Face directory, which transformers, vLLM and this project read.

  python -m espo_jax.convert --checkpoint=runs/quickstart --output=models/quickstart [--arm=espo] [--step=60]
  python -m espo_jax.convert --gguf=qwen2.5-1.5b-instruct-q4_k_m.gguf --output=models/qwen

The adapters of a checkpoint are merged into its weights, and its value head is left out. The quantised weights of a GGUF file
become float32, which holds their values exactly. Tokenizer and chat template are taken from the file.
"""

import argparse
import pathlib
import sys
from collections.abc import Sequence

from absl import logging

from espo_jax import tasks
from espo_jax.commands import CommandParser, lower_flags, machine_errors
from espo_jax.configs import ConfigError
from espo_jax.evaluate.policies import RequestError, experiment_of, open_policy
from espo_jax.learner import CheckpointError
from espo_jax.model import WeightsError, open_gguf, rewrite_gguf, save_hf


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


def convert_gguf(file: str | pathlib.Path, output: str | pathlib.Path) -> None:
  """Writes the model of a GGUF file, with its tokenizer, its chat template and its end tokens.

  Args:
    file: The GGUF file.
    output: The directory to write, which must not exist.

  Raises:
    WeightsError: The file or its model cannot be used, or the output exists.
    DataError: The file's tokenizer cannot be used.
  """
  opened = open_gguf(file)
  tokenizer = tasks.gguf_tokenizer(opened.metadata, opened.path)
  rewrite_gguf(opened, output, tokenizer=tokenizer, end_tokens=tasks.gguf_end_tokens(opened.metadata, opened.path))


@machine_errors(lambda phase: lower_flags({}, 'JAX_PLATFORMS=cpu, which has the memory of the host, or a larger host'))
def main(argv: Sequence[str]) -> None:
  """Runs the command."""
  parser = CommandParser(
    prog='python -m espo_jax.convert', description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--checkpoint', help='the folder of a run of espo_jax.train')
  parser.add_argument('--gguf', metavar='FILE', help="instead, a model in llama.cpp's format: Qwen2/2.5, Qwen3, Llama, Mistral")
  parser.add_argument('--output', required=True, help='the directory to write; must not exist')
  parser.add_argument('--arm', help="a stop rule's arm, warm_start or critic_warmup; by default the run's main arm")
  parser.add_argument('--step', type=int, help='a step that has a checkpoint; by default the newest')
  logging.set_verbosity(logging.WARNING)  # orbax tells of every file at INFO
  args = parser.parse_args(argv)
  if args.checkpoint is None and args.gguf is None:
    parser.error('--checkpoint is missing; fix: --checkpoint=..., or --gguf=FILE')
  for name in ('checkpoint', 'arm', 'step'):
    if args.gguf is not None and (value := getattr(args, name)) is not None:
      parser.error(f'--{name}={value}: does not go with --gguf={args.gguf}; fix: leave one of them out')
  try:
    if args.gguf is not None:
      convert_gguf(args.gguf, args.output)
    else:
      convert(args.checkpoint, args.output, args.arm, args.step)
  except (RequestError, CheckpointError, ConfigError, WeightsError, tasks.DataError) as error:
    sys.exit(f'error: {error}')
  print(f'wrote {args.output}')


if __name__ == '__main__':
  main(sys.argv[1:])

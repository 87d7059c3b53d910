"""Draw the depth at which a trained policy exits: tokens of a few answers coloured by depth, and depth against entropy.

  python -m espo_jax.plot_exits --checkpoint=runs/exits --output=depth.png

The policy answers test problems at the run's temperature, with the exits that it was trained with.
"""

import pathlib
import sys

import jax
import numpy as np
from absl import app, flags, logging

from espo_jax import parallel, stops, tasks
from espo_jax.commands import lower_flags, machine_errors
from espo_jax.configs import ConfigError, parse_flags
from espo_jax.evaluate.policies import RequestError, experiment_of, open_policy
from espo_jax.experiment import Experiment
from espo_jax.learner import CheckpointError, score
from espo_jax.model import Params, WeightsError
from espo_jax.monitor.exit_plots import plot_depth

_CHECKPOINT = flags.DEFINE_string('checkpoint', None, 'The folder of a run of espo_jax.train with exits.')
_ARM = flags.DEFINE_string('arm', None, "Of the run's arms or stages; its main arm by default.")
_OUTPUT = flags.DEFINE_string('output', 'depth.png', 'The picture.')
_ROWS = flags.DEFINE_integer('rows', 6, 'Answers shown.', lower_bound=1)

_FORMATS = ('.png', '.pdf', '.svg')


def read_depth(exp: Experiment, params: Params, count: int) -> list[dict]:
  """Samples answers to the first `count` test problems, or to all if there are fewer, and returns them token by token."""
  problems = exp.test_problems(count)
  asked = problems + problems[-1:] * (-len(problems) % parallel.batch_shards(exp.mesh))  # as many for each device
  never, temperature = stops.never(), exp.config.rollout.temperature
  prompts = exp.prompts(asked)
  rows = exp.sampler.plain(samples=1)(params, never, never.init(1).adaptive, prompts, exp.key('examples', 0))
  assert rows.depth is not None and exp.model.exits is not None
  entropy = score(
    exp.model,
    params,
    rows.prompt_tokens,
    rows.prompt_lengths,
    rows.tokens,
    temperature=temperature,
    chunk=exp.logit_chunk,
    blocks=rows.depth.blocks,
    route=rows.depth.route,
    exit_level=exp.model.exits.level,
  ).entropy
  verdicts = exp.grade(asked, rows).correct
  lengths, tokens, blocks, entropy = jax.device_get((rows.length, rows.tokens, rows.depth.blocks, entropy))
  return [
    {
      'question': exp.task.question(problem),
      'outcome': 'Right' if verdicts[i] >= 1 else 'Wrong',
      'tokens': tasks.token_texts(exp.tokenizer, tokens[i, : lengths[i]].tolist()),
      'blocks': blocks[i, : lengths[i]].tolist(),
      'entropy': np.asarray(entropy[i, : lengths[i]], np.float64).tolist(),
    }
    for i, problem in enumerate(problems)
  ]


@machine_errors(
  lambda phase: lower_flags({'rows': _ROWS.value // 2 or None}, 'JAX_PLATFORMS=cpu, which has the memory of the host')
)
def main(argv: list[str]) -> None:
  """Runs the command."""
  if len(argv) > 1:
    raise app.UsageError(f'unexpected arguments {argv[1:]}')
  logging.set_verbosity(logging.WARNING)  # orbax tells of every file at INFO
  if not _CHECKPOINT.value:
    sys.exit('error: --checkpoint is missing; fix: --checkpoint=runs/exits, the folder of a run')
  if pathlib.Path(_OUTPUT.value).suffix not in _FORMATS:
    sys.exit(f'error: --output={_OUTPUT.value}: no picture; fix: a name that ends in {", ".join(_FORMATS)}')
  try:
    policy = open_policy(pathlib.Path(_CHECKPOINT.value), _ARM.value)
    exp = experiment_of(pathlib.Path(_CHECKPOINT.value), policy)
    if exp.model.exits is None:
      fix = 'a run trained with --config.exits.every=2, say'
      raise RequestError(f'--checkpoint={_CHECKPOINT.value}: its model has no exits; fix: {fix}')
    params = policy.load(exp)
  except (CheckpointError, ConfigError, RequestError, WeightsError) as error:
    sys.exit(f'error: {error}')
  rows = read_depth(exp, params, _ROWS.value)
  try:
    plot_depth(rows, exp.model.config.num_layers, _OUTPUT.value)
  except OSError as error:
    sys.exit(f'error: --output={_OUTPUT.value}: {error.strerror}; fix: a file that can be written')
  print(f'wrote {_OUTPUT.value}')


if __name__ == '__main__':
  app.run(main, flags_parser=parse_flags)

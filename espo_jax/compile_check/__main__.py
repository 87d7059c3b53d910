"""Compile the programs of an experiment for a TPU slice that need not exist, and report whether they fit and what they cost.

  pip install libtpu   # compiles without a TPU; part of the extra [tpu]
  python -m espo_jax.compile_check --config=experiments/espo_r1_distill_qwen_7b.py --topology=v5p:2x2x2
    --config.model.path=models/r1-7b   # its config.json is enough

Rollout, log-probability pass and update are compiled one after another over the config's mesh. With `rollout.gather_weights`
the reshard of the weights is compiled first. Every figure is for one chip. `--topology=local` takes the devices that jax finds
here. All rows have the maximum length, so packing saves nothing. A program fits if there is memory for it and for the arrays
that training keeps meanwhile, such as the optimizer's moments during a rollout. If a program does not fit, the command says
what to change and exits with 1.
"""

import functools
import sys

import ml_collections
from absl import app, flags, logging
from ml_collections import config_flags

from espo_jax import compile_check
from espo_jax.commands import lower_fields, machine_errors
from espo_jax.configs import ConfigError, parse_flags, validate
from espo_jax.tasks import DataError

_CONFIG = config_flags.DEFINE_config_file('config', None, 'The experiment, a Python file with get_config().')
_TOPOLOGY = flags.DEFINE_string(
  'topology', 'v5p:2x2x2', "The slice: a chip of v5e, v5p, v6e and how many along each axis; or 'local'."
)
_PROGRAMS = flags.DEFINE_list(
  'programs', [], f'Some of {", ".join(compile_check.PROGRAMS)}; all that the config runs by default.'
)


def main(argv: list[str]) -> None:
  """Runs the command."""
  if len(argv) > 1:
    raise app.UsageError(f'unexpected arguments {argv[1:]}; every option is a flag, as --config.mesh.fsdp=4')
  if not _CONFIG.value:
    sys.exit('error: --config is missing; fix: --config=..., such as experiments/quickstart.py')
  logging.set_verbosity(logging.WARNING)  # jax logs every missing platform at INFO
  with machine_errors(functools.partial(lower_fields, _CONFIG.value)):
    compile_programs(_CONFIG.value, _TOPOLOGY.value)


def compile_programs(config: ml_collections.ConfigDict, topology: str) -> None:
  """Compile the programs, report on each, and exit with 1 if one does not fit."""
  try:
    mesh = compile_check.topology_mesh(config, topology)
    config.mesh.update(dict(mesh.shape))  # what was -1 is known now
    validate(config, data=False)
    programs, fit = compile_check.Programs(config, mesh), True
    if unknown := [name for name in _PROGRAMS.value if name not in programs.names]:
      raise ConfigError([f'--programs={unknown[0]}: no such program; fix: some of {", ".join(programs.names)}'])
  except (ConfigError, DataError) as error:
    sys.exit(f'error: {error}')
  for name in _PROGRAMS.value or programs.names:
    checked = compile_check.check(programs, name, compile_check.memory_limit(topology))
    chip = compile_check.CHIPS.get(topology.partition(':')[0])
    print(
      '\n'.join(
        [f'{topology}: {line}' if i == 0 else line for i, line in enumerate(compile_check.report(checked, config, chip))]
      )
    )
    fit &= checked.fits
  if not fit:
    sys.exit(1)


if __name__ == '__main__':
  app.run(main, flags_parser=parse_flags)

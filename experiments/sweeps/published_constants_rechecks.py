"""ESPO and our stop rule with the constants of ESPO's paper, on a task in which some unlikely tokens are correct.

  python -m espo_jax.sweep --sweep=experiments/sweeps/published_constants_rechecks.py --workdir=runs/ablation_rechecks \
    --output=experiments/results/published_constants_rechecks

The arms are those of `published_constants.py`, and the workdir is that of `ablation_rechecks.py`.
"""

import pathlib
import runpy

_CHAINS = runpy.run_path(str(pathlib.Path(__file__).with_name('published_constants.py')))


def get_sweep():
  return _CHAINS['get_sweep'](base='experiments/quickstart.py:rechecks')
